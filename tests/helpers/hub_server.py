"""As much of the Hub, over HTTP, as reading and pushing needs; it fails on demand."""

import base64
import hashlib
import http.server
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest

from tests.helpers.hub_repository import Hub, Pages

TOKEN = "hf_secretsecretsecret"
_LARGE = (".parquet", ".safetensors", ".bin")


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    trouble: int | str | None = None

    def answer(self, body, status=200, headers=None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.trouble in ("stall", "half"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._cut(waits=self.trouble == "stall")
        elif self.trouble == "drip":
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.hub.ended.wait(0.02):
                    return
        else:
            self.wfile.write(_damaged(body) if self.trouble == "wrong" else body)

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
            self._cut(waits=what == "silence")
            return
        body = self.rfile.read(length)
        if isinstance(what, int):
            self.answer(failure.body, what, failure.headers)
            return
        if what == "forget":
            self.wfile = io.BytesIO()
        self._serve(_damaged(body) if what == "damage" else body)
        if what == "forget":
            self._cut(waits=False)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _cut(self, waits):
        self.hub.reached.set()
        if waits:
            self.hub.ended.wait(60)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, body):
        url = urlsplit(self.path)
        if url.path.startswith("/signed/"):
            self._stored(url)
            return
        if self.command == "PUT":
            # The Hub's storage is another server: it never sees the token, and compares hashes.
            oid = url.path.removeprefix("/storage/")
            right = hashlib.sha256(body).hexdigest() == oid
            self.hub.blobs.update({oid: body} if right else {})
            self.answer(b"", status=200 if right else 400)
            return
        if url.path.startswith("/api/collections"):
            self._collections(url, json.loads(body or b"{}"))
            return
        parts = url.path.removeprefix("/api").strip("/").split("/")
        kind = parts.pop(0) if parts[0] in ("models", "datasets", "spaces") else "models"
        name = "/".join(parts[:2]).removesuffix(".git")
        repository, rest = self.hub.repositories.get((kind, name)), parts[2:]
        if not self._allowed(repository):
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif url.path == "/api/repos/create":
            self._create(json.loads(body))
        elif url.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif url.path == "/verify":
            done = json.loads(body)
            right = len(self.hub.blobs.get(done["oid"], b"")) == done["size"]
            self.answer({}, 200 if right else 422)
        elif repository is None:
            self.refuse(404, "RepoNotFound")
        elif self.command == "POST":
            address = self._address(kind, name)
            self._write(address, repository, rest, body, "create_pr" in parse_qs(url.query))
        else:
            self._read(name, repository, rest)

    def _collections(self, url, asked):
        slug = "/".join(url.path.split("/")[3:5])
        found = self.hub.collections.get(slug)
        bearer = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if bearer != self.hub.token:
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif self.command == "POST" and not slug:
            known = [one.title for one in self.hub.collections.values()]
            made = self.hub.collect(asked["title"], asked["namespace"], asked["private"])
            self.answer(_pages(made), 409 if made.title in known else 200)
        elif not slug:
            owner = parse_qs(url.query)["owner"][0]
            listed = [one for one in self.hub.collections.values() if one.owner == owner]
            # In a list each has its place there, and at most four items.
            shown = [{**_pages(one), "items": _pages(one)["items"][:4]} for one in listed]
            for one in shown:
                del one["position"]
            self.answer(shown)
        elif found is None:
            self.refuse(404)
        elif self.command == "POST":
            item = (asked["item"]["id"], asked["item"]["type"])
            taken = item in found.items
            if (f"{item[1]}s", item[0]) not in self.hub.repositories:
                self.refuse(404)
                return
            found.items += [] if taken else [item]
            self.answer(_pages(found), 409 if taken else 200)
        else:
            self.answer(_pages(found))

    def _address(self, kind, name):
        return f"{self.hub.endpoint}/{'' if kind == 'models' else f'{kind}/'}{name}"

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
                self.hub.make(kind, name, asked.get("visibility") == "private")
        self.answer({"url": self._address(kind, name)}, 409 if exists else 200)

    def _read(self, name, repository, rest):
        what, revision = (rest[0] if rest else "revision"), unquote((rest[1:] or ["main"])[0])
        commit, below = repository.oid(revision), unquote("/".join(rest[2:]))
        files = repository.commits.get(commit, {})
        if what == "discussions":
            self._discussions(name, repository)
        elif commit is None:
            self.refuse(404, "RevisionNotFound")
        elif what == "tree":
            self.answer([_entry(*file) for file in files.items() if below in file[0]])
        elif what == "revision":
            about = {"id": name, "modelId": name, "sha": commit, "private": repository.private}
            self.answer({**about, "tags": [], "siblings": [{"rfilename": path} for path in files]})
        elif what == "resolve" and below in files:
            entry = _entry(below, files[below])
            tags = {"ETag": f'"{entry["oid"]}"'}
            if "lfs" in entry:
                tags["X-Linked-ETag"] = f'"{entry["lfs"]["oid"]}"'
            where = {"X-Repo-Commit": commit, **tags}
            if self.hub.storage and "lfs" in entry:
                size = {"X-Linked-Size": str(entry["size"])}
                signed = f"/signed/{len(self.hub.requests)}/{name}/{commit}/{below}"
                self.answer(b"", 302, {**where, **size, "Location": self.hub.storage + signed})
            else:
                self._file(f"{name}/{below}", files[below], where)
        else:
            self.refuse(404, "EntryNotFound")

    def _stored(self, url):
        """The storage, at addresses that the Hub gave; it must not be shown the token."""
        _, _, _, owner, model, commit, file = url.path.split("/", 6)
        self.hub.shown += [self.path] if self.headers["Authorization"] else []
        content = self.hub.model(f"{owner}/{model}").commits[commit][unquote(file)]
        tag = _entry(unquote(file), content)["oid"]
        self._file(f"{owner}/{model}/{file}", content, {"ETag": f'"{tag}"'})

    def _file(self, name, content, headers):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if asked is None or not self.hub.ranges:
            self.hub.sent += [(name, 0, len(content))] if self.command == "GET" else []
            self.answer(content, headers=headers)
            return
        begin, end = int(asked[1]), min(int(asked[2]) + 1, len(content))
        self.hub.sent.append((name, begin, end))
        part = {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}
        self.answer(content[begin:end], 206, {**headers, **part})

    def _discussions(self, name, repository):
        about = {"repo": {"name": name, "type": "model"}, "isPullRequest": True, "status": "open"}
        about |= {"author": {"name": "someone"}, "createdAt": "2026-11-22T00:00:00.000Z"}
        titles = enumerate(repository.pulls, 1)
        pulls = [{**about, "num": number, "title": title} for number, title in titles]
        self.answer({"count": len(pulls), "start": 0, "discussions": pulls})

    def _write(self, address, repository, rest, body, pr):
        what, ref = rest[0], unquote(rest[1])
        if what == "branch":
            taken = ref in repository.refs
            repository.refs.setdefault(ref, repository.refs["main"])
            self.answer({}, 409 if taken else 200)
        elif what == "info":
            self.answer({"objects": [*map(self._place, json.loads(body)["objects"])]})
        elif ref not in repository.refs:
            self.refuse(404, "RevisionNotFound")
        elif what == "preupload":
            files = repository.files(ref)
            asked = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [_mode(path, files.get(path)) for path in asked]})
        else:
            with self.hub.lock:
                self._commit(address, repository, ref, map(json.loads, body.splitlines()), pr)

    def _place(self, blob):
        if blob["oid"] in self.hub.blobs:
            return blob
        upload, verify = f"{self.hub.endpoint}/storage/{blob['oid']}", f"{self.hub.endpoint}/verify"
        return {**blob, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}

    def _commit(self, address, repository, ref, lines, pr):
        header = next(lines)["value"]
        if header.get("parentCommit") not in (None, repository.refs[ref]):
            self.refuse(412)
            return
        files, done = dict(repository.files(ref)), {}
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "deletedFile":
                del files[value["path"]]
            elif key == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        if pr:
            repository.pulls.append(header["summary"])
            ref = f"refs/pr/{len(repository.pulls)}"
            done["pullRequestUrl"] = f"{address}/discussions/{len(repository.pulls)}"
        oid = repository.commit(ref, files)
        self.answer({**done, "commitUrl": f"{address}/commit/{oid}", "commitOid": oid})

    def log_message(self, format, *args):
        pass


def _damaged(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def _pages(held: Pages) -> dict[str, Any]:
    items = [
        {"_id": str(number), "id": name, "type": kind, "position": number}
        for number, (name, kind) in enumerate(held.items)
    ]
    about = {"lastUpdated": "2026-11-22T00:00:00.000Z", "position": 0, "theme": "green"}
    about |= {"title": held.title, "owner": {"name": held.owner}, "private": held.private}
    return {**about, "slug": held.slug, "items": items, "upvotes": 0}


@lru_cache(maxsize=64)
def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    found = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(_LARGE):
        oid = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return found


def _mode(path: str, present: bytes | None) -> dict[str, Any]:
    """How a file is to be uploaded, and what is there."""
    mode = "lfs" if path.endswith(_LARGE) else "regular"
    found = {"path": path, "uploadMode": mode, "shouldIgnore": False}
    if present is not None:
        entry = _entry(path, present)
        found["oid"] = entry.get("lfs", entry)["oid"]
    return found


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    addresses = [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    hub.endpoint, hub.storage = addresses[0], addresses[1] if hub.ranges else ""
    try:
        yield hub
    finally:
        hub.ended.set()
        for server in servers:
            server.shutdown()
            server.server_close()


@contextmanager
def local_hub(patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that takes one token, which is set; retries do not wait."""
    # xet does not fall back to plain uploads.
    patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    patch.setenv("HF_TOKEN", TOKEN)
    with serve_hub(Hub(TOKEN)) as hub:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        yield hub
