"""A model repository served over HTTP, as much of the Hub as ``from_pretrained`` reads."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_model(repository: str, folder: Path) -> Iterator[str]:
    """Serve the files of ``folder`` as ``repository``; yields the endpoint's address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self, body: bytes, content_type: str, etag: str = "") -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            if etag:
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            names = sorted(file.name for file in folder.iterdir())
            asked = path.partition("/revision/")[2]
            if asked and asked not in (COMMIT, "main", "v1"):
                path = "/unknown"
            if path.startswith(f"/api/models/{repository}/tree/"):
                rows = [
                    {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": n}
                    for n in names
                ]
                self._answer(json.dumps(rows).encode(), "application/json")
            elif path.startswith(f"/api/models/{repository}"):
                info = {
                    "id": repository,
                    "modelId": repository,
                    "sha": COMMIT,
                    "tags": [],
                    "siblings": [{"rfilename": name} for name in names],
                }
                self._answer(json.dumps(info).encode(), "application/json")
            elif path.startswith(f"/{repository}/resolve/"):
                revision, _, name = path.removeprefix(f"/{repository}/resolve/").partition("/")
                if revision not in (COMMIT, "main", "v1") or name not in names:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body = (folder / name).read_bytes()
                self._answer(body, "application/octet-stream", hashlib.sha1(body).hexdigest())
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
