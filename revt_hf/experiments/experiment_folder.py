"""An experiment's folder: where the results of its steps lie, and which of them are up to date."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from revt_hf.checkpoints.tensors import CONFIG_FILE, PROCESSOR_FILE, WEIGHTS_FILE, open_checkpoint
from revt_hf.config.recipe import DomainSpec
from revt_hf.config.yaml_files import Section
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import real_path
from revt_hf.core.outputs import check_apart, file_sha256, read_json_object, write_json
from revt_hf.data.domains import open_domain
from revt_hf.data.domains.base import Opened

# Records of finished steps, and locks; it makes a folder an experiment's.
_STEPS_FOLDER = ".steps"
_MODELS = ("members", "merges", "recalibrated", "refit")
# Raised when the result of a step would come out differently: every step is redone then.
_VERSION = 1
_log = logging.getLogger(__name__)


class Stamp(Section):
    """A result file: size, time and sha256, and the sha256 of the small files it depends on."""

    size: int
    modified_ns: int
    sha256: str
    beside: dict[str, str]


class StepRecord(Section):
    """``.steps/ID.json``: what a finished step was made from, and what it wrote."""

    step: str
    inputs: str
    result: Stamp
    seconds: float


@dataclass(frozen=True)
class Status:
    """The state of a step, and a note for people, such as the reason why data are missing."""

    # Done, but with other inputs: stale. A training that has a checkpoint: begun.
    state: Literal["done", "stale", "begun", "missing"]
    note: str = ""


@dataclass(frozen=True)
class Step:
    """A unit of work with one result; ``id`` is also its path below the experiment's folder."""

    id: str
    inputs: tuple[str, ...]
    # Of Slurm; None if there is nothing to do.
    stage: ClassVar[str | None] = None

    def run(self, folder: "ExperimentFolder") -> None:
        """Do the work and write the output, or raise a UserError; by default there is no work."""
        raise UserError(folder.status(self.id).note)

    def settings(self) -> dict[str, Any]:
        """What else determines the result; without defaults, so that new fields change nothing."""
        return {}

    def companions(self, ready: Sequence["Step"], folder: "ExperimentFolder") -> list["Step"]:
        """The steps to run together, of those that are ready; this is the first of them."""
        return [self]

    def run_together(
        self, steps: Sequence["Step"], folder: "ExperimentFolder", on_image: Callable[[], object]
    ) -> None:
        """Run this step and its companions; ``on_image`` is called after each image."""
        for step in steps:
            step.run(folder)

    def model(self, folder: "ExperimentFolder") -> str:
        """The folder or Hub ID that the step's network is loaded from."""
        return str(folder.path / self.id)

    def output(self, folder: "ExperimentFolder") -> Path:
        """The file that exists once the step has finished."""
        return Path(self.model(folder)) / WEIGHTS_FILE

    def images(self) -> list[tuple[DomainSpec, str]]:
        return []

    def checkpoint(self) -> str | None:
        """A checkpoint from outside the experiment that determines the result, if there is one."""
        return None

    def fingerprint(self, folder: "ExperimentFolder") -> str:
        record = folder.record(self)
        return _joined([record.result.sha256], record.result.beside) if record else ""

    def status(self, folder: "ExperimentFolder") -> Status:
        return folder.recorded_status(self)

    def update_labels(self, folder: "ExperimentFolder") -> None:
        """Bring titles and the like in a finished result up to date."""


class ExperimentFolder:
    """The results of steps: one is done if its output is what it wrote, from what it would use now.

    That is the same settings, the same inputs, the same images on disk.
    """

    def __init__(self, path: Path, steps: Mapping[str, Step]) -> None:
        self.path = path
        self._steps = steps
        self._statuses: dict[str, Status] = {}
        self._known: dict[tuple[Path, int, int], str] = {}
        self._domains: dict[str, Opened] = {}

    @property
    def is_begun(self) -> bool:
        return (self.path / _STEPS_FOLDER).is_dir()

    def begin(self) -> None:
        with readable_os_errors(self.path):
            (self.path / _STEPS_FOLDER).mkdir(parents=True, exist_ok=True)

    def check(self, data: Iterable[str | None]) -> None:
        """Refuse a folder in which results would lie among other files."""
        check_apart(self.path, dict.fromkeys(data))
        with readable_os_errors(self.path):
            target = real_path(self.path)
            if not target.exists() or self.is_begun:
                return
            if not target.is_dir() or any(target.iterdir()):
                raise UserError(
                    f"{self.path} exists and is no experiment's folder: choose another output"
                )

    def model_of(self, step_id: str) -> str:
        return self._steps[step_id].model(self)

    def status(self, step_id: str) -> Status:
        """The state of a step, cached until the step is finished."""
        if step_id not in self._statuses:
            self._statuses[step_id] = self._steps[step_id].status(self)
        return self._statuses[step_id]

    def done(self, step_id: str) -> bool:
        return self.status(step_id).state == "done"

    def finish(self, step: Step, seconds: float) -> None:
        output, inputs = step.output(self), self.input_hash(step)
        if inputs is None or not output.is_file():
            raise UserError(f"{step.id} left no {output}")
        result, seconds = self._stamp(output), round(seconds, 2)
        record = StepRecord(step=step.id, inputs=inputs, result=result, seconds=seconds)
        path = self.path / _STEPS_FOLDER / f"{step.id}.json"
        write_json(path, record.model_dump(mode="json"))
        self._forget(step.id)

    def record(self, step: Step) -> StepRecord | None:
        """The record of a finished step; None if there is none, or it is damaged."""
        path = self.path / _STEPS_FOLDER / f"{step.id}.json"
        if not path.exists():
            return None
        try:
            return StepRecord.model_validate(read_json_object(path))
        except (UserError, ValidationError):
            _log.info("%s is damaged: the step is done again", path)
            return None

    def finished_models(self) -> dict[str, str | None]:
        """The models that steps left, by the sha256 of their weights; None if changed since."""
        records, found = self.path / _STEPS_FOLDER, {}
        for path in sorted(records.rglob("*.json")):
            step = Step(path.relative_to(records).with_suffix("").as_posix(), ())
            record, weights = self.record(step), step.output(self)
            if step.id.split("/")[0] in _MODELS:
                same = record and weights.is_file() and self._is_same(weights, record.result)
                found[step.id] = record.result.sha256 if record and same else None
        return found

    def recorded_status(self, step: Step) -> Status:
        output = step.output(self)
        record = self.record(step) if output.is_file() else None
        same = record is not None and self.input_hash(step) == record.inputs
        if same and record and self._is_same(output, record.result):
            return Status("done")
        note = ""
        try:
            self.check_data(step)
        except UserError as error:
            note = str(error)
        return Status("stale" if record else "missing", note)

    def input_hash(self, step: Step) -> str | None:
        """A hash of everything that determines a result; None while something is missing."""
        if not all(map(self.done, step.inputs)):
            return None
        outside = step.checkpoint()
        try:
            return hash_of(
                {
                    "version": _VERSION,
                    "settings": step.settings(),
                    "needs": [self._steps[one].fingerprint(self) for one in step.inputs],
                    "images": [self._opened(*split).content for split in step.images()],
                    "init": None if outside is None else self.checkpoint_hash(outside),
                }
            )
        except UserError:
            return None

    def checkpoint_hash(self, source: str) -> str:
        """A fingerprint of a checkpoint's files; for a Hub ID, the ID."""
        if not Path(source).exists():
            from revt_hf.checkpoints.download import is_hub_id

            if not is_hub_id(source):
                raise UserError(f"there is no checkpoint {source}")
            return source
        with open_checkpoint(source, quiet=True) as found:
            beside = _beside(found.folder) if found.folder else {}
            return _joined(map(self._sha256, found.originals), beside)

    def _sha256(self, path: Path) -> str:
        """The sha256 of a file, which is read once while its size and time stay the same."""
        now = path.stat()
        key = (path, now.st_size, now.st_mtime_ns)
        if key not in self._known:
            self._known[key] = file_sha256(path)
        return self._known[key]

    def _stamp(self, result: Path) -> Stamp:
        now, digest = result.stat(), self._sha256(result)
        beside = _beside(result.parent) if result.name == WEIGHTS_FILE else {}
        return Stamp(size=now.st_size, modified_ns=now.st_mtime_ns, sha256=digest, beside=beside)

    def _is_same(self, result: Path, stamp: Stamp) -> bool:
        """Whether a result has the content that it had when it was stamped."""
        # A file of that size and time need not be read.
        self._known[result, stamp.size, stamp.modified_ns] = stamp.sha256
        now = self._stamp(result)
        return (now.sha256, now.beside) == (stamp.sha256, stamp.beside)

    def check_data(self, step: Step) -> None:
        for split in step.images():
            for _, reason in self._opened(*split).missing:
                raise UserError(reason)

    def image_count(self, step: Step) -> int:
        return sum(self._opened(*split).images for split in step.images())

    def locked(self, step: Step) -> AbstractContextManager[object]:
        """Keep other processes from doing the same step."""
        path = self.path / _STEPS_FOLDER / f"{step.id.replace('/', '__')}.lock"
        try:
            return FileLock(path).acquire(timeout=0)
        except Timeout as error:
            raise UserError("another process is doing this step") from error

    def _forget(self, step_id: str) -> None:
        if self._statuses.pop(step_id, None) is not None:
            for other in self._steps.values():
                if step_id in other.inputs:
                    self._forget(other.id)

    def _opened(self, spec: DomainSpec, split: str) -> Opened:
        key = json.dumps([spec.model_dump(mode="json"), split], sort_keys=True)
        if key not in self._domains:
            place = (spec.data_dir, spec.config, spec.options)
            self._domains[key] = open_domain(spec.domain, split, *place)
        return self._domains[key]


def _beside(folder: Path) -> dict[str, str]:
    found = (folder / name for name in (CONFIG_FILE, PROCESSOR_FILE))
    return {path.name: file_sha256(path) for path in found if path.is_file()}


def _joined(hashes: Iterable[str], beside: dict[str, str]) -> str:
    return " ".join([*hashes, " ".join(f"{name}:{digest}" for name, digest in beside.items())])


def hash_of(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
