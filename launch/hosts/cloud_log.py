"""Sends lines of a host's log to Cloud Logging."""

import json
import os
import urllib.error
import urllib.request

from launch.hosts import bootstrap
from launch.hosts.place import Place

_ENTRIES = 500


def send(project: str, run: str, place: Place, lines: list[str]) -> str | None:
  """Writes lines to the log drope-train of a project.

  Returns:
    Why they were not written; None: they were. A failure ends no training.

  Source: Cloud Logging REST reference, entries.write.
  """
  endpoint = os.environ.get(  # gcloud's own variable.
    "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING", "https://logging.googleapis.com/"
  )
  for first in range(0, len(lines), _ENTRIES):
    body = {
      "logName": f"projects/{project}/logs/drope-train",
      "resource": {"type": "global", "labels": {"project_id": project}},
      "labels": {bootstrap.METADATA: run, "host": place.name},
      "entries": [
        {"textPayload": line} for line in lines[first : first + _ENTRIES]
      ],
    }
    request = urllib.request.Request(
      f"{endpoint}v2/entries:write",
      data=json.dumps(body).encode(),
      headers={
        "Authorization": f"Bearer {bootstrap.token()}",
        "Content-Type": "application/json",
      },
    )
    try:
      urllib.request.urlopen(request, timeout=20).close()
    except bootstrap.NO_ANSWER as error:
      return str(error)
  return None
