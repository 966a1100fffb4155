"""Google Cloud Storage on a local server, for the tests that want a bucket."""

import functools
import http.server
import os
import threading
from urllib import parse

import pytest


@pytest.fixture(scope="module")
def bucket():
  """The storage of the one bucket of a server, gs://bucket."""
  with pytest.MonkeyPatch.context() as patch:
    # Before gcsfs is imported: it would ask another, real service.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    pytest.importorskip("gcsfs", reason="needs the extra gcs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    storage = pytest.importorskip("gcp_storage_emulator.storage").Storage(
      use_memory_fs=True
    )
    emulator.buckets.create_bucket("bucket", storage)
    server = http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), functools.partial(_handler(emulator), storage)
    )
    server.handle_error = lambda *args: None  # gcsfs hangs up on some.
    url = f"http://127.0.0.1:{server.server_port}"
    patch.setenv("STORAGE_EMULATOR_HOST", url)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    storage.server = server
    server.uploading = server.downloading = lambda name: None
    # It serves as long as the process lives: a read that is still under way
    # would be tried again for minutes, and the process wait for it.
    yield storage


def _handler(emulator):
  """Returns the emulator's handler, with what it leaves out.

  TensorStore needs generations, to tell that nobody else has written, lists a
  folder by the names that it begins and ends at, and reads a file's end.
  """

  one_at_a_time = threading.Lock()  # The emulator knows no threads.

  class Handler(emulator.RequestHandler):
    def _handle(self, method):
      url = parse.urlparse(self.path)
      query = parse.parse_qs(url.query)
      name = parse.unquote(url.path.partition("/b/bucket/o/")[2])
      if method == "POST":
        (name,) = query.get("name", [name])
        self.server.uploading(name)
      elif "media" in query.get("alt", ()):
        self.server.downloading(name)
      if "startOffset" in query:
        ends = (*query["startOffset"], *query["endOffset"])
        self.path += f"&prefix={parse.quote(os.path.commonprefix(ends))}"
      if (ends := self.headers.get("Range", "")).startswith("bytes=-"):
        size = int(objects(self.storage, name).get(name, {"size": 0})["size"])
        first = max(0, size - int(ends.removeprefix("bytes=-")))
        self.headers.replace_header("Range", f"bytes={first}-{size - 1}")
      with one_at_a_time:
        self._answer(method, name, query)

    def _answer(self, method, name, query):
      self.generation = _generation(self.storage, name)
      if query.get("ifGenerationMatch", [self.generation]) != [self.generation]:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(http.HTTPStatus.PRECONDITION_FAILED)
      elif query.get("generation", [self.generation]) != [self.generation]:
        self.send_error(http.HTTPStatus.NOT_FOUND)
      elif query.get("ifGenerationNotMatch") == [self.generation]:
        self.send_response(http.HTTPStatus.NOT_MODIFIED)
        self.end_headers()
      else:
        emulator.Router(self).handle(method)

    def end_headers(self):
      self.send_header("x-goog-generation", self.generation)
      super().end_headers()

    def log_message(self, *args):
      pass

    do_GET = functools.partialmethod(_handle, "GET")
    do_POST = functools.partialmethod(_handle, "POST")
    do_PUT = functools.partialmethod(_handle, "PUT")
    do_DELETE = functools.partialmethod(_handle, "DELETE")

  return Handler


def _generation(storage, name):
  return objects(storage).get(name, {"generation": "0"})["generation"]


def objects(storage, prefix=""):
  """Returns what the bucket holds, by name."""
  files, _ = storage.get_file_list("bucket", prefix, None)
  return {file["name"]: file for file in files}
