"""As much of the Hub, over HTTP, as reading and pushing needs; it fails on demand."""

import base64
import hashlib
import http.server
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest

from tests.helpers.hub_repository import COMMIT, Hub, Repository

TOKEN = "hf_secretsecretsecret"
_WRONG_TOKEN = "Invalid credentials in Authorization header"
_LARGE = (".parquet", ".safetensors", ".bin")


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    trouble: int | str | None = None

    def answer(self, body, status=200, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.trouble == "wrong":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if self.trouble in ("stall", "half"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.hub.reached.set()
            if self.trouble == "stall":
                self.hub.ended.wait(60)
            self._cut()
            return
        for byte in body if self.trouble == "drip" else ():
            self.wfile.write(bytes([byte]))
            if self.hub.ended.wait(0.02):
                return
        if self.trouble != "drip":
            self.wfile.write(body)

    def answer_json(self, value, status=200):
        self.answer(json.dumps(value).encode(), status=status)

    def refuse(self, status, code="", message=""):
        self.answer(b"", status, {"X-Error-Code": code, "X-Error-Message": message})

    def do_GET(self):
        request = f"{self.command} {self.path}"
        self.hub.requests.append(request)
        length = int(self.headers["Content-Length"] or 0)
        failure = next((failure for failure in self.hub.failures if failure.hits(request)), None)
        what = self.trouble = failure.what if failure else None
        if what in ("cut", "silence"):
            self.rfile.read(length // 2)
            self.hub.reached.set()
            if what == "silence":
                self.hub.ended.wait(60)
            self._cut()
            return
        body = self.rfile.read(length)
        if what == "damage":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if isinstance(what, int):
            self.answer(failure.body, what, failure.headers)
            return
        if what == "forget":
            self.wfile = io.BytesIO()
        self._serve(body)
        if what == "forget":
            self._cut()

    def _cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, body):
        url = urlsplit(self.path)
        path, asked = url.path, parse_qs(url.query)
        if self.command == "PUT":
            # The Hub's storage is another server: it never sees the token, and compares hashes.
            oid = path.removeprefix("/storage/")
            right = hashlib.sha256(body).hexdigest() == oid
            self.hub.blobs.update({oid: body} if right else {})
            self.answer(b"", status=200 if right else 400)
            return
        parts = path.removeprefix("/api").strip("/").split("/")
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        name = "/".join(parts[:2]).removesuffix(".git")
        repository, rest = self.hub.repositories.get((kind, name)), parts[2:]
        if not self._allowed(repository):
            self.refuse(401, message=_WRONG_TOKEN)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif path == "/verify":
            done = json.loads(body)
            right = len(self.hub.blobs.get(done["oid"], b"")) == done["size"]
            self.answer_json({}, 200 if right else 422)
        elif repository is None:
            self.refuse(404, "RepoNotFound")
        elif self.command == "POST":
            self._write(kind, name, repository, rest, body, "create_pr" in asked)
        else:
            self._read(name, repository, rest)

    def _allowed(self, repository):
        bearer = self.headers["Authorization"]
        if self.command in ("GET", "HEAD") and bearer is None:
            return repository is None or not repository.private
        return self.hub.token in (None, (bearer or "").removeprefix("Bearer "))

    def _create(self, asked):
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        kind = f"{asked.get('type', 'model')}s"
        with self.hub.lock:
            exists = (kind, name) in self.hub.repositories
            if not exists:
                made = self.hub.make(kind, name)
                made.private = asked.get("visibility") == "private"
        prefix = "" if kind == "models" else f"{kind}/"
        self.answer_json({"url": f"{self.hub.endpoint}/{prefix}{name}"}, 409 if exists else 200)

    def _read(self, name, repository, rest):
        what, revision = (rest[0] if rest else "revision"), unquote((rest[1:] or ["main"])[0])
        if what == "discussions":
            self._discussions(name, repository)
            return
        commit = repository.oid(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
            return
        files, below = repository.files(commit), unquote("/".join(rest[2:]))
        if what == "tree":
            self.answer_json([_entry(*file) for file in files.items() if below in file[0]])
        elif what == "revision":
            about = {"id": name, "modelId": name, "sha": commit, "private": repository.private}
            siblings = [{"rfilename": path} for path in files]
            self.answer_json({**about, "tags": [], "siblings": siblings})
        elif what == "resolve" and below in files:
            self._resolve(below, files[below], commit)
        else:
            self.refuse(404, "EntryNotFound")

    def _resolve(self, path, content, commit):
        about = {"X-Repo-Commit": commit, "ETag": f'"{_blob_id(content)}"'}
        if path.endswith(_LARGE):
            about["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(content, headers=about)

    def _discussions(self, name, repository):
        about = {"repo": {"name": name, "type": "model"}, "isPullRequest": True, "status": "open"}
        about |= {"author": {"name": "someone"}, "createdAt": "2026-11-22T00:00:00.000Z"}
        titles = enumerate(repository.pulls, 1)
        pulls = [{**about, "num": number, "title": title} for number, title in titles]
        self.answer_json({"count": len(pulls), "start": 0, "discussions": pulls})

    def _write(self, kind, name, repository, rest, body, pr):
        what, ref = rest[0], unquote(rest[1])
        if what == "branch":
            taken = ref in repository.refs
            repository.refs.setdefault(ref, repository.refs["main"])
            self.answer_json({}, 409 if taken else 200)
        elif what == "info":
            self.answer_json({"objects": [*map(self._place, json.loads(body)["objects"])]})
        elif ref not in repository.refs:
            self.refuse(404, "RevisionNotFound")
        elif what == "preupload":
            files = repository.files(ref)
            asked = [file["path"] for file in json.loads(body)["files"]]
            self.answer_json({"files": [_mode(path, files.get(path)) for path in asked]})
        else:
            header, *lines = (json.loads(line) for line in body.decode().splitlines())
            with self.hub.lock:
                self._commit(kind, name, repository, ref, header["value"], lines, pr)

    def _place(self, blob):
        if blob["oid"] in self.hub.blobs:
            return blob
        upload, verify = f"{self.hub.endpoint}/storage/{blob['oid']}", f"{self.hub.endpoint}/verify"
        return {**blob, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}

    def _commit(self, kind, name, repository, ref, header, lines, pr):
        if header.get("parentCommit") not in (None, repository.refs[ref]):
            self.refuse(412)
            return
        files = dict(repository.files(ref))
        for line in lines:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        prefix = "" if kind == "models" else f"{kind}/"
        address, done = f"{self.hub.endpoint}/{prefix}{name}", {}
        if pr:
            repository.pulls.append(header["summary"])
            ref = f"refs/pr/{len(repository.pulls)}"
            done["pullRequestUrl"] = f"{address}/discussions/{len(repository.pulls)}"
        oid = repository.commit(ref, files)
        self.answer_json({**done, "commitUrl": f"{address}/commit/{oid}", "commitOid": oid})

    def log_message(self, format, *args):
        pass


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as the Hub lists it."""
    found = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
    if path.endswith(_LARGE):
        oid = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return found


def _mode(path: str, present: bytes | None) -> dict[str, Any]:
    large = path.endswith(_LARGE)
    found = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    if present is not None:
        found["oid"] = hashlib.sha256(present).hexdigest() if large else _blob_id(present)
    return found


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serve what ``hub`` holds, and take what is pushed to it."""
    methods = dict.fromkeys(("do_HEAD", "do_POST", "do_PUT"), _Handler.do_GET)
    handler = type("Handler", (_Handler,), {"hub": hub, **methods})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()


@contextmanager
def serve_model(repository: str, folder: Path) -> Iterator[str]:
    """Serve the files of ``folder`` as ``repository``; yields the endpoint's address."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    served = Repository(files, COMMIT)
    served.refs["v1"] = COMMIT
    with serve_hub(Hub(repositories={("models", repository): served})) as hub:
        yield hub.endpoint


@contextmanager
def serve_uploads(folder: Path, token: str | None = None) -> Iterator[str]:
    """Take what is pushed with ``token``, main branches into ``folder/<owner>/<name>``."""
    with serve_hub(Hub(folder, token)) as hub:
        yield hub.endpoint


@contextmanager
def local_hub(patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that takes one token, which is set; retries do not wait."""
    # xet does not fall back to plain uploads.
    patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    patch.setenv("HF_TOKEN", TOKEN)
    with serve_hub(Hub(token=TOKEN)) as hub:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        yield hub
