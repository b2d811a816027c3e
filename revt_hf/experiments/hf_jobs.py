"""Submitting an experiment to the Hub's machines, and waiting: jobs there cannot wait themselves.

The record in the experiment's folder (``hf_jobs/submitted.json``) names the job of each task, so
that the same command continues after an interruption and submits nothing twice.
"""

import logging
import secrets as random
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revt_hf.core.errors import UserError, counted, say, shortened
from revt_hf.core.output_folders import locked
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.hf_requests import NoAnswerError, asking, jobs_api, without
from revt_hf.experiments.hf_settings import HfJobsSettings
from revt_hf.experiments.hf_tasks import HfPlan, HfTask, plan_jobs

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo

_POLL_SECONDS = 20.0
# A request fails when the network does; the jobs go on.
_MOST_FAILURES = 15
_LAST_LINES = 8
_ENDED = ("COMPLETED", "ERROR", "CANCELED", "DELETED")
_log = logging.getLogger(__name__)


def submit_to_hub(
    path: str | Path, output: Path, overrides: Sequence[str], settings: HfJobsSettings
) -> HfPlan:
    """Submit each job when the jobs that it needs are completed, until none is left to wait for.

    Args:
        path: the experiment (YAML).
        output: its folder; here it keeps the record, in the bucket the results.
        overrides: ``a.b=c`` strings.
        settings: see :class:`HfJobsSettings`.

    Returns:
        The jobs in their last states; some may have failed.

    Raises:
        UserError: the experiment or the settings cannot be used, or the Hub refuses a job.
    """
    plan = plan_jobs(path, output, overrides, settings)
    folder = ExperimentFolder(output, {})
    folder.check([])
    secrets = settings.secret_values()
    api = jobs_api()
    record = output / "hf_jobs" / "submitted.json"
    with locked(record.parent):
        with asking(secrets, "cannot ask the Hub for your name"):
            namespace = settings.namespace or api.whoami()["name"]
        folder.begin()
        _Submission(plan, api, namespace, secrets, record).run()
    return plan


def problem_of(tasks: Sequence[HfTask]) -> str | None:
    """One sentence on the jobs that failed; None if there are none."""
    failed = [task for task in tasks if task.state in _ENDED[1:]]
    blocked = sum(task.state == "blocked" for task in tasks)
    if not failed:
        return None
    listed = ", ".join(f"{task.title} is {task.state}: {task.url}" for task in failed)
    more = f"; {blocked} more need them and were not started" if blocked else ""
    again = "submit again once the cause is fixed: completed jobs are kept"
    return f"{len(failed)} of {counted(len(tasks), 'job')} failed: {listed}{more}; {again}"


class _Submission:
    """The tasks of an experiment, the jobs that do them, and the record of both."""

    def __init__(
        self, plan: HfPlan, api: "HfApi", namespace: str, secrets: dict[str, str], record: Path
    ) -> None:
        self.plan, self.api, self.namespace = plan, api, namespace
        self.secrets, self.record, self.failures = secrets, record, 0
        self.kept: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        self._recall()
        try:
            while True:
                self._step()
                if not self._active() and not self.failures:
                    return
                time.sleep(_POLL_SECONDS)
        except UserError as error:
            if not self._active():
                raise
            raise UserError(f"{error}; jobs go on: the same command waits again") from error
        except KeyboardInterrupt:
            ids = [task.job for task in self._active() if task.job]
            if ids:
                say(f"{counted(len(ids), 'job')} on the Hub go on: the same command waits for them")
                say(f"to end one: hf jobs cancel {self.namespace}/{ids[0]}")
            raise

    def _step(self) -> None:
        """Look at the jobs and submit what can start; the network may fail for a while."""
        try:
            self._look()
            self._start()
        except NoAnswerError as error:
            self.failures += 1
            if self.failures >= _MOST_FAILURES:
                raise
            _log.info("%s; asking again", error)
        else:
            self.failures = 0

    def _active(self) -> list[HfTask]:
        known = ("waiting", "blocked", *_ENDED)
        return [task for task in self.plan.tasks if task.state not in known]

    def _recall(self) -> None:
        """Take over what an earlier submission recorded; ended jobs that failed are done again."""
        if self.record.exists():
            self.kept = read_json_object(self.record)
        tasks = {task.digest: task for task in self.plan.tasks}
        there = self._there()
        mine = set()
        for digest, row in self.kept.items():
            try:
                job, state, space = row["job"], row["state"], row["namespace"]
                name, steps, attempt = row["name"], tuple(row["steps"]), row["attempt"]
            except (KeyError, TypeError) as error:
                raise UserError(
                    f"{self.record}: a damaged record: look at the jobs on the Hub, then remove it"
                ) from error
            if space != self.namespace and digest in tasks:
                raise UserError(
                    f"{self.record}: its jobs are of {space}, not of {self.namespace}: use another "
                    "output, or remove the record"
                )
            # Without a job it was being submitted when something broke.
            if job is None and attempt in there:
                job = there[attempt].id
            mine.add(job)
            if job is None or (digest not in tasks and state in _ENDED):
                continue
            task = tasks.get(digest, HfTask(name, "report", steps, [], digest))
            task.job, task.attempt = job, attempt
            task.state, task.url = state, row.get("url") or self._url(job)
            if state not in _ENDED:
                self._look_at(task)
            if digest not in tasks and task.state not in _ENDED:
                raise UserError(
                    f"job {job} of an earlier version of the experiment is {task.state}: wait for "
                    f"it, or hf jobs cancel {self.namespace}/{job}"
                )
            if task.state in _ENDED[1:]:
                task.job = task.url = task.attempt = None
                task.state = "waiting"
        for job in there.values():
            if job.id not in mine and job.status.stage not in _ENDED:
                raise UserError(
                    f"job {job.id} is {job.status.stage} and writes to the same folder of "
                    f"{self.plan.settings.results}, but is not in {self.record}: wait for it, or "
                    f"hf jobs cancel {self.namespace}/{job.id}"
                )

    def _there(self) -> dict[str, "JobInfo"]:
        """The jobs at the Hub that write to this folder of the bucket, by attempt."""
        with asking(self.secrets, "cannot list your jobs"):
            labels = {"revt-results": self.plan.folder}
            found = self.api.list_jobs(labels=labels, namespace=self.namespace)
            known = [(job.labels or {}, job) for job in found]
        return {
            own.get("revt-attempt", job.id): job
            for own, job in known
            if own.get("revt-results") == self.plan.folder
        }

    def _look(self) -> None:
        for task in self._active():
            self._look_at(task)

    def _look_at(self, task: HfTask) -> None:
        gone = f"if it is gone, remove {self.record}: jobs that find their steps done end at once"
        with asking(self.secrets, f"cannot look at job {task.job}", if_gone=gone):
            info = self.api.inspect_job(job_id=str(task.job), namespace=self.namespace)
            state, message = info.status.stage, info.status.message
        if state != task.state:
            task.state = state
            self._write(task)
            self._say(task, f": {message}" if message else "")
            if state in _ENDED[1:]:
                self._show_log(task)

    def _start(self) -> None:
        states = {task.name: task.state for task in self.plan.tasks}
        for task in self.plan.tasks:
            if task.state != "waiting":
                continue
            before = [states[name] for name in task.after]
            if any(state in (*_ENDED[1:], "blocked") for state in before):
                task.state = states[task.name] = "blocked"
            elif all(state == "COMPLETED" for state in before):
                limit = self.plan.settings.at_once
                if limit is None or len(self._active()) < limit:
                    self._submit(task)

    def _submit(self, task: HfTask) -> None:
        from huggingface_hub import Volume

        # The Hub's answer was lost: the job may be there.
        job = self._there().get(task.attempt) if task.attempt else None
        if job is None:
            task.attempt = random.token_hex(8)
            request = self.plan.request(task)
            request["volumes"] = [Volume(**volume) for volume in request["volumes"]]
            request["labels"]["revt-attempt"] = task.attempt
            # What other versions of the experiment left in the bucket is replaced.
            self.kept = {
                digest: row
                for digest, row in self.kept.items()
                if set(row["steps"]).isdisjoint(task.steps) and (row["steps"] or task.steps)
            }
            # Before it is sent: an answer that gets lost must not lead to a second job.
            self._write(task)
            with asking(self.secrets, f"{task.title} was not submitted", self._forget(task)):
                job = self.api.run_job(**request, secrets=self.secrets, namespace=self.namespace)
        task.job, task.url, task.state = job.id, job.url, job.status.stage
        self._write(task)
        self._say(task)

    def _write(self, task: HfTask) -> None:
        row: dict[str, Any] = {"name": task.name, "steps": list(task.steps)}
        row |= {
            "namespace": self.namespace,
            "attempt": task.attempt,
            "job": task.job,
            "url": task.url,
            "state": task.state,
        }
        self.kept[task.digest] = row
        write_json(self.record, self.kept)

    def _forget(self, task: HfTask) -> Callable[[], None]:
        def forget() -> None:
            task.attempt = None
            del self.kept[task.digest]
            write_json(self.record, self.kept)

        return forget

    def _url(self, job: str) -> str:
        return f"{self.api.endpoint}/jobs/{self.namespace}/{job}"

    def _say(self, task: HfTask, more: str = "") -> None:
        _log.info("%s", without(f"{task.title}: {task.state}, {task.url}{more}", self.secrets))

    def _show_log(self, task: HfTask) -> None:
        try:
            with asking(self.secrets, f"cannot read the log of job {task.job}"):
                where: dict[str, Any] = {"job_id": task.job, "namespace": self.namespace}
                lines = deque(self.api.fetch_job_logs(**where, tail=_LAST_LINES), _LAST_LINES)
        except UserError as error:
            _log.info("%s", error)
            return
        for line in lines:
            _log.info("  %s", shortened(without(line.rstrip(), self.secrets), 500))
