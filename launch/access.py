"""The least roles that a run needs, and the commands that grant them."""

from launch.commands import Command
from launch.slice import Slice

HOSTS = {
  "roles/logging.logWriter": "the hosts' logs in Cloud Logging",
}
"""Roles of the hosts' service account in the project."""

BUCKET = {
  "roles/storage.objectUser": "the bundle, records, logs, data, checkpoints",
}
"""Roles of the hosts' service account on the bucket alone."""

USER = {
  "group": (
    "roles/compute.instanceAdmin.v1",
    "roles/iam.serviceAccountUser",
    "roles/storage.objectUser",
  ),
  "queued": (
    "roles/tpu.admin",
    "roles/iam.serviceAccountUser",
    "roles/storage.objectUser",
  ),
  "jobset": (
    "roles/container.developer",
    "roles/container.clusterAdmin",
    "roles/storage.objectUser",
  ),
}
"""Roles of the launcher's user, by way of renting."""

POLICY = "roles/compute.instanceAdmin.v1"
"""One role more of that user, where a JobSet needs a workload policy.

It is the role that has `compute.resourcePolicies.create` in the way "group".
"""

APIS = {
  "group": ("compute", "storage", "logging"),
  "queued": ("tpu", "storage", "logging"),
  "jobset": ("container", "compute", "storage", "logging"),
}
"""APIs that a project has to enable, by way of renting."""


def prepare(rented: Slice) -> list[Command]:
  """Returns the commands that prepare a project, once.

  Source: gcloud reference, services enable; iam service-accounts create;
  projects add-iam-policy-binding; storage buckets create and
  add-iam-policy-binding; iam service-accounts add-iam-policy-binding.
  """
  project = f"--project={rented.project}"
  home = f"gs://{rented.bucket.removeprefix('gs://').partition('/')[0]}"
  account = rented.service_account
  if rented.way == "jobset":
    account = f"drope-tpu@{rented.project}.iam.gserviceaccount.com"
  member = f"--member=serviceAccount:{account}"
  apis = [f"{name}.googleapis.com" for name in APIS[rented.way]]
  made = [
    ("gcloud", "services", "enable", *apis, project),
    (
      *("gcloud", "storage", "buckets", "create", home, project),
      *(f"--location={rented.region}", "--uniform-bucket-level-access"),
    ),
    (
      *("gcloud", "iam", "service-accounts", "create"),
      *(account.partition("@")[0], project),
    ),
    *(
      (
        *("gcloud", "projects", "add-iam-policy-binding", rented.project),
        *(member, f"--role={role}", "--condition=None"),
      )
      for role in HOSTS
    ),
    *(
      (
        *("gcloud", "storage", "buckets", "add-iam-policy-binding", home),
        *(member, f"--role={role}"),
      )
      for role in BUCKET
    ),
  ]
  if rented.way == "jobset":
    # docs.cloud.google.com/kubernetes-engine/docs/how-to/workload-identity
    pod = f"{rented.project}.svc.id.goog[default/{rented.service_account}]"
    kubectl = ("kubectl", f"--context={rented.cluster_context}")
    made += [
      (*kubectl, "create", "serviceaccount", rented.service_account),
      (
        *("gcloud", "iam", "service-accounts", "add-iam-policy-binding"),
        *(account, f"--member=serviceAccount:{pod}"),
        *("--role=roles/iam.workloadIdentityUser", project),
      ),
      (
        *(*kubectl, "annotate", "serviceaccount", rented.service_account),
        f"iam.gke.io/gcp-service-account={account}",
      ),
    ]
  return [Command(args) for args in made]
