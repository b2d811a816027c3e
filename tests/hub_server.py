"""As much of the Hub, over HTTP, as ``from_pretrained`` reads and a data set's push writes."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_WRONG_TOKEN = "Invalid credentials in Authorization header"
_REVISIONS = (COMMIT, "main", "v1")


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads from a repository: info, tree, files."""

    def find(self, path: str) -> tuple[str, Path, str] | None:
        """Kind (models, datasets), folder and id of the repository that a path names."""
        raise NotImplementedError

    def private(self, repository: str) -> bool:
        return False

    def allowed(self) -> bool:
        return True

    def answer(self, body: bytes, content_type: str, etag: str = "", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: Any, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), "application/json", status=status)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if not self.allowed():
            self.refuse(401, message=_WRONG_TOKEN)
            return
        found = self.find(path)
        asked = path.partition("/revision/")[2]
        if found is None or (asked and asked not in _REVISIONS):
            self.refuse(404, "RepoNotFound")
            return
        kind, folder, repository = found
        api = f"/api/{kind}/{repository}"
        files = f"{'' if kind == 'models' else '/' + kind}/{repository}/resolve/"
        names = sorted(
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
        )
        if path.startswith(f"{api}/tree/"):
            sizes = {name: (folder / name).stat().st_size for name in names}
            self.answer_json(
                [{"type": "file", "path": n, "size": sizes[n], "oid": n} for n in names]
            )
        elif path.startswith(api):
            self.answer_json(
                {
                    "id": repository,
                    "modelId": repository,
                    "sha": COMMIT,
                    "private": self.private(repository),
                    "tags": [],
                    "siblings": [{"rfilename": name} for name in names],
                }
            )
        else:
            revision, _, name = path.removeprefix(files).partition("/")
            if revision not in _REVISIONS or name not in names:
                self.refuse(404, "EntryNotFound")
                return
            body = (folder / name).read_bytes()
            self.answer(body, "application/octet-stream", hashlib.sha1(body).hexdigest())

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve_model(repository: str, folder: Path) -> Iterator[str]:
    """Serve the files of ``folder`` as ``repository``; yields the endpoint's address."""

    class Handler(_Handler):
        def find(self, path: str) -> tuple[str, Path, str] | None:
            places = (f"/api/models/{repository}", f"/{repository}/resolve/")
            return ("models", folder, repository) if path.startswith(places) else None

    with _serving(Handler) as endpoint:
        yield endpoint


@contextmanager
def serve_uploads(folder: Path, token: str | None = None) -> Iterator[str]:
    """Take data sets that are pushed, into ``folder/<owner>/<name>``; yields the address.

    Args:
        folder: where they go.
        token: what every request to the Hub has to bear, 401 otherwise; None takes any.
    """
    blobs: dict[str, bytes] = {}
    private_ones: set[str] = set()

    class Handler(_Handler):
        def private(self, repository: str) -> bool:
            return repository in private_ones

        def find(self, path: str) -> tuple[str, Path, str] | None:
            parts = path.removeprefix("/api").split("/")
            if len(parts) < 4 or parts[1] != "datasets":
                return None
            repository = f"{parts[2]}/{parts[3].removesuffix('.git')}"
            place = folder / repository
            return ("datasets", place, repository) if place.is_dir() else None

        def allowed(self) -> bool:
            return token is None or self.headers["Authorization"] == f"Bearer {token}"

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _address(self) -> str:
            return f"http://{self.headers['Host']}"

        def do_PUT(self) -> None:
            # The Hub's storage is another server, which never sees the token.
            blobs[self.path.removeprefix("/storage/")] = self._body()
            self.answer(b"", "text/plain")

        def do_POST(self) -> None:
            body, path = self._body(), self.path.split("?")[0]
            if not self.allowed():
                self.refuse(401, message=_WRONG_TOKEN)
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif path == "/api/validate-yaml":
                self.answer_json({"errors": [], "warnings": []})
            elif path == "/verify":
                done = json.loads(body)
                stored = blobs.get(done["oid"], b"")
                right = hashlib.sha256(stored).hexdigest() == done["oid"]
                self.answer_json({}, 200 if right and len(stored) == done["size"] else 422)
            elif (found := self.find(path)) is None:
                self.refuse(404, "RepoNotFound")
            elif "/preupload/" in path:
                self.answer_json({"files": [_mode(file) for file in json.loads(body)["files"]]})
            elif path.endswith("/info/lfs/objects/batch"):
                self.answer_json({"objects": [*map(self._place, json.loads(body)["objects"])]})
            elif "/commit/" in path:
                for line in body.decode().splitlines():
                    self._apply(found[1], **json.loads(line))
                made = f"{self._address()}/datasets/{found[2]}/commit/{COMMIT}"
                self.answer_json({"commitUrl": made, "commitOid": COMMIT})
            else:
                self.refuse(404)

        def _create(self, asked: dict[str, Any]) -> None:
            repository = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            place = folder / repository
            status = 409 if place.exists() else 200
            if status == 200 and asked.get("visibility") == "private":
                private_ones.add(repository)
            place.mkdir(parents=True, exist_ok=True)
            self.answer_json({"url": f"{self._address()}/datasets/{repository}"}, status)

        def _place(self, blob: dict[str, Any]) -> dict[str, Any]:
            address = self._address()
            actions = {
                "upload": {"href": f"{address}/storage/{blob['oid']}"},
                "verify": {"href": f"{address}/verify"},
            }
            return {**blob, "actions": actions}

        def _apply(self, place: Path, key: str, value: dict[str, Any]) -> None:
            if key == "header":
                return
            path = place / value["path"]
            if key == "deletedFile":
                path.unlink()
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                blobs[value["oid"]] if key == "lfsFile" else base64.b64decode(value["content"])
            )

    with _serving(Handler) as endpoint:
        yield endpoint


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    large = file["path"].endswith(".parquet")
    return {
        "path": file["path"],
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
    }
