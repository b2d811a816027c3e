"""As much of the Hub's Jobs API, over HTTP, as submitting needs; it can run the jobs, too."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import huggingface_hub

from tests.helpers.golden import ROOT

OWNER = "me"


class Jobs:
    """The jobs of an account, and how they end: ``ends`` maps words of a job to its stages.

    A job goes one stage further each time it is looked at. With a ``bucket``, a folder, it runs.
    """

    def __init__(self, bucket=None):
        self.bucket, self.jobs, self.requests, self.bodies = bucket, {}, [], []
        self.ends, self.log, self.refusals = {}, {}, []
        self.after = lambda job: None

    def submitted(self):
        """What each job does: its arguments after the script."""
        return [" ".join(body["command"][4:]) for body in self.bodies]

    def create(self, body):
        self.bodies.append(body)
        number = f"job{len(self.jobs) + 1}"
        words = " ".join(body["command"][4:])
        stages = next((ends for part, ends in self.ends.items() if part in words), None)
        job = {
            "id": number,
            "createdAt": f"2026-11-26T10:00:{len(self.jobs):02}.000Z",
            "dockerImage": body["dockerImage"],
            "flavor": body["flavor"],
            "labels": body.get("labels"),
            "status": {"stage": "SCHEDULING", "message": None},
            "owner": {"id": "0", "name": OWNER, "type": "user"},
        }
        if self.bucket is not None:
            stages = [self._run(number, body)]
        self.jobs[number] = job
        job["next"] = list(stages or ["RUNNING", "COMPLETED"])
        self.after(job)
        return job

    def look(self, number):
        job = self.jobs[number]
        if job["next"]:
            job["status"] = {"stage": job["next"].pop(0), "message": job.get("why")}
        return job

    def _run(self, number, body):
        """Run the command here, with the mounted bucket in a folder."""
        environment = {**os.environ, **body["environment"], **body.get("secrets", {})}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        # A job's machine is gone afterwards, with its temporary files.
        environment["TMPDIR"] = str(self.bucket.parent)
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        mount = next(v["mountPath"] for v in body["volumes"] if v["type"] == "bucket")
        command = [word.replace(f"{mount}/", f"{self.bucket}/") for word in body["command"]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.log[number] = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        return "ERROR" if done.returncode else "COMPLETED"


class _Handler(http.server.BaseHTTPRequestHandler):
    jobs: Jobs

    def answer(self, body, status=200, kind="application/json", headers=()):
        self.send_response(status)
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in [("Content-Type", kind), ("Content-Length", len(body)), *headers]:
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        jobs, url = self.jobs, urlsplit(self.path)
        jobs.requests.append(f"{self.command} {self.path}")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        refusal = next((one for one in jobs.refusals if one[0] in jobs.requests[-1]), None)
        if refusal is not None:
            jobs.refusals.remove(refusal)
            if refusal[1] == "lost":
                jobs.create(body)
                self.close_connection = True
                return
            headers = [("X-Error-Message", refusal[2])]
            self.answer({"error": refusal[2]}, refusal[1], headers=headers)
        elif url.path == "/api/whoami-v2":
            self.answer({"name": OWNER, "type": "user"})
        elif self.command == "POST" and url.path == f"/api/jobs/{OWNER}":
            self.answer({**jobs.create(body), "next": None})
        elif url.path == f"/api/jobs/{OWNER}":
            wanted = [v.split("=", 1) for k, v in parse_qsl(url.query) if k == "label"]
            found = [
                job
                for job in jobs.jobs.values()
                if all((job["labels"] or {}).get(key) == value for key, value in wanted)
            ]
            self.answer(found)
        elif match := re.fullmatch(rf"/api/jobs/{OWNER}/(\w+)(/logs)?", url.path):
            number, logs = match.groups()
            if number not in jobs.jobs:
                self.answer({"error": "no such job"}, 404)
            elif logs:
                tail = int(dict(parse_qsl(url.query)).get("tail", 10**9))
                self.answer(
                    self._events(jobs.log.get(number, [])[-tail:]), kind="text/event-stream"
                )
            else:
                self.answer(jobs.look(number))
        else:
            self.answer({"error": "no such route"}, 404)

    do_POST = do_GET  # noqa: N815

    def _events(self, lines):
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 60))
        return "".join(
            f"data: {json.dumps({'data': line, 'timestamp': now})}\n\n" for line in lines
        ).encode()

    def log_message(self, *_):
        pass


@contextmanager
def jobs_api(patch, bucket=None):
    """A Jobs API that takes all tokens, and is asked without pauses."""
    jobs = Jobs(bucket)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"jobs": jobs})
    )
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    patch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    patch.setattr("revt_hf.experiments.hf_jobs._POLL_SECONDS", 0)
    patch.setenv("HF_TOKEN", "hf_tokentokentoken")
    try:
        yield jobs
    finally:
        server.shutdown()
        server.server_close()
