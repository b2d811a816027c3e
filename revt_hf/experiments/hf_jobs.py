"""Submitting an experiment to the Hub's machines, and waiting: jobs there cannot wait themselves.

The record in the experiment's folder (``hf_jobs/submitted.json``) names the job of each task, so
that the same command continues after an interruption and submits nothing twice.
"""

import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revt_hf.checkpoints.hub_requests import bounded_requests, failed_transport
from revt_hf.core.errors import UserError, causes, counted, say, shortened
from revt_hf.core.output_folders import locked
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.hf_settings import HfJobsSettings
from revt_hf.experiments.hf_tasks import HfPlan, HfTask, plan_jobs

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo

_POLL_SECONDS = 20.0
_PATIENCE_SECONDS = 60
# A poll fails when the network does; the jobs go on.
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
    api = _jobs_api()
    record = output / "hf_jobs" / "submitted.json"
    with locked(record.parent):
        with _asking(secrets, "cannot ask the Hub for your name"):
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
                self._look()
                self._start()
                if not self._active():
                    return
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            ids = [task.job for task in self._active() if task.job]
            if ids:
                say(f"{counted(len(ids), 'job')} on the Hub go on: the same command waits for them")
                say(f"to end one: hf jobs cancel {self.namespace}/{ids[0]}")
            raise

    def _active(self) -> list[HfTask]:
        known = ("waiting", "blocked", *_ENDED)
        return [task for task in self.plan.tasks if task.state not in known]

    def _recall(self) -> None:
        """Take over what an earlier submission recorded; ended jobs that failed are done again."""
        if self.record.exists():
            self.kept = read_json_object(self.record)
        tasks = {task.digest: task for task in self.plan.tasks}
        for digest, row in self.kept.items():
            try:
                job, state, space = row["job"], row["state"], row["namespace"]
            except (KeyError, TypeError) as error:
                raise UserError(
                    f"{self.record}: a damaged record: look at the jobs on the Hub, then remove it"
                ) from error
            if space != self.namespace and digest in tasks:
                raise UserError(
                    f"{self.record}: its jobs are of {space}, not of {self.namespace}: use another "
                    "output, or remove the record"
                )
            if job is None:
                # It was being submitted when something broke.
                job = self._found(digest)
            if state not in _ENDED and job is not None:
                state = self._info(job).status.stage
            if digest not in tasks and state not in _ENDED and job is not None:
                raise UserError(
                    f"job {job} of an earlier version of the experiment is {state}: wait for it, "
                    f"or hf jobs cancel {self.namespace}/{job}"
                )
            if digest in tasks and job is not None and state not in _ENDED[1:]:
                task = tasks[digest]
                task.job, task.state, task.url = job, state, row.get("url") or self._url(job)

    def _found(self, digest: str) -> str | None:
        """The job of a task at the Hub, if it got there; its label says so."""
        with _asking(self.secrets, "cannot list your jobs"):
            label = {"revt-task": digest[:40]}
            jobs = [
                job
                for job in self.api.list_jobs(labels=label, namespace=self.namespace)
                if job.labels and job.labels.get("revt-task") == digest[:40]
            ]
        newest = sorted(jobs, key=lambda job: str(job.created_at))[-1:]
        return newest[0].id if newest else None

    def _look(self) -> None:
        for task in self._active():
            try:
                info = self._info(str(task.job))
            except UserError as error:
                self.failures += 1
                if self.failures >= _MOST_FAILURES:
                    raise UserError(
                        f"{error}; the jobs go on: the same command waits again"
                    ) from error
                _log.info("%s; asking again", error)
                return
            self.failures = 0
            if info.status.stage != task.state:
                task.state = info.status.stage
                self._write(task)
                self._say(task, f": {info.status.message}" if info.status.message else "")
                if task.state in _ENDED[1:]:
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

        request = self.plan.request(task)
        request["volumes"] = [Volume(**volume) for volume in request["volumes"]]
        # Before it is sent: an answer that gets lost must not lead to a second job.
        self._write(task)
        with _asking(self.secrets, f"{task.title} was not submitted", self._forget(task)):
            info = self.api.run_job(**request, secrets=self.secrets, namespace=self.namespace)
        task.job, task.url, task.state = info.id, info.url, info.status.stage
        self._write(task)
        self._say(task)

    def _write(self, task: HfTask) -> None:
        row = {"name": task.name, "steps": list(task.steps), "namespace": self.namespace}
        self.kept[task.digest] = row | {"job": task.job, "url": task.url, "state": task.state}
        write_json(self.record, self.kept)

    def _forget(self, task: HfTask) -> Callable[[], None]:
        def forget() -> None:
            del self.kept[task.digest]
            write_json(self.record, self.kept)

        return forget

    def _info(self, job: str) -> "JobInfo":
        with _asking(self.secrets, f"cannot look at job {job}"):
            return self.api.inspect_job(job_id=job, namespace=self.namespace)

    def _url(self, job: str) -> str:
        return f"{self.api.endpoint}/jobs/{self.namespace}/{job}"

    def _say(self, task: HfTask, more: str = "") -> None:
        _log.info("%s", _without(f"{task.title}: {task.state}, {task.url}{more}", self.secrets))

    def _show_log(self, task: HfTask) -> None:
        try:
            with _asking(self.secrets, f"cannot read the log of job {task.job}"):
                where: dict[str, Any] = {"job_id": task.job, "namespace": self.namespace}
                lines = deque(self.api.fetch_job_logs(**where, tail=_LAST_LINES), _LAST_LINES)
        except UserError as error:
            _log.info("%s", error)
            return
        for line in lines:
            _log.info("  %s", shortened(_without(line.rstrip(), self.secrets), 500))


@contextmanager
def _asking(
    secrets: dict[str, str], failure: str, on_refusal: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Turn a refusal of the Hub, or no answer, into one sentence without secrets."""
    from huggingface_hub import constants

    try:
        with bounded_requests(_PATIENCE_SECONDS):
            yield
    except UserError:
        raise
    # The transport decides what is raised; its own messages may quote headers with the token.
    except Exception as error:  # noqa: BLE001
        why = f"something went wrong ({type(error).__name__})"
        for cause in causes(error):
            status = getattr(getattr(cause, "response", None), "status_code", None)
            lost = failed_transport(cause, constants.ENDPOINT)
            if status is not None:
                said = getattr(cause, "server_message", None)
                why = f"the Hub answered with status {status}"
                why += (
                    f": {shortened(_without(' '.join(said.split()), secrets), 300)}" if said else ""
                )
                if 400 <= status < 500:
                    on_refusal()
                break
            if lost is not None:
                why = lost
                break
        raise UserError(f"{failure}: {why}") from None


def _without(text: str, secrets: dict[str, str]) -> str:
    for name, value in secrets.items():
        text = text.replace(value, f"({name})")
    return text


def _jobs_api() -> "HfApi":
    import huggingface_hub

    needed = {
        "run_job": {"image", "command", "env", "secrets", "flavor", "timeout", "labels", "volumes"},
        "list_jobs": {"labels"},
        "inspect_job": {"job_id"},
        "fetch_job_logs": {"tail"},
    }
    for name, parameters in needed.items():
        function = getattr(huggingface_hub.HfApi, name, None)
        known = set(inspect.signature(function).parameters) if function else set()
        if lacking := sorted(parameters - known):
            version = huggingface_hub.__version__
            raise UserError(
                f"huggingface_hub {version} cannot do this ({name} has no {', '.join(lacking)}): "
                "pip install -U huggingface_hub"
            )
    return huggingface_hub.HfApi()
