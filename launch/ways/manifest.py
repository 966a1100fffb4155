"""The JobSet of several slices, each on its own node pool.

Source: jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2.
"""

from typing import Any

from launch.hosts import bootstrap, script
from launch.slice import LABEL, Slice

CONTAINER = "host"
"""The container's name in each pod."""


def describe(rented: Slice) -> dict[str, Any]:
  """Returns the manifest, in JSON types."""
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": rented.name, "labels": {LABEL: rented.name}},
    "spec": {
      # `watch` decides what is tried again, and what is not.
      "failurePolicy": {"maxRestarts": 0},
      "replicatedJobs": [
        {
          "name": f"slice-{number}",
          "replicas": 1,
          "template": {"spec": _job(rented, number, pool)},
        }
        for number, pool in enumerate(rented.slice_names)
      ],
    },
  }


def _job(rented: Slice, number: int, pool: str) -> dict[str, Any]:
  """Returns the pods of a slice, on its node pool.

  JobSet's exclusive placement would find that pool by itself. But it waits for
  a node before it makes all pods, and flex-start waits for all pods.
  """
  hosts = rented.shape.hosts
  return {
    "parallelism": hosts,
    "completions": hosts,
    "completionMode": "Indexed",
    "backoffLimit": 0,
    "template": {
      "metadata": {"labels": {LABEL: rented.name}},
      "spec": _pod(rented, number, pool),
    },
  }


def _pod(rented: Slice, number: int, pool: str) -> dict[str, Any]:
  shape = rented.shape
  tpus = {"google.com/tpu": shape.chips_on_a_host}
  return {
    "restartPolicy": "Never",
    "serviceAccountName": rented.service_account,
    # For a save. A node that is taken back gives its pods less.
    "terminationGracePeriodSeconds": 600,
    "nodeSelector": {
      "cloud.google.com/gke-tpu-accelerator": shape.chip.gke_accelerator,
      "cloud.google.com/gke-tpu-topology": shape.topology,
      "cloud.google.com/gke-nodepool": pool,
    },
    "containers": [
      {
        "name": CONTAINER,
        "image": rented.image,
        "command": ["python3", "-c", script.source()],
        # A start-up script that fails says why in its last line.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "env": [
          {"name": bootstrap.VARIABLE, "value": rented.folder},
          {
            "name": "POD_IP",
            "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
          },
          {"name": "JOB_INDEX", "value": str(number)},
        ],
        "resources": {"requests": tpus, "limits": tpus},
      }
    ],
  }
