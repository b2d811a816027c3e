"""An experiment's folder: where the results of its steps lie, and which of them are up to date."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.config.domain_spec import DomainSpec
from revt_hf.config.sections import Section
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import real_path
from revt_hf.core.outputs import check_apart, read_json_object, write_json
from revt_hf.data.domains import open_domain
from revt_hf.data.domains.base import Opened
from revt_hf.experiments.fingerprints import FileHashes, Stamp

# Records of finished steps, and locks; it makes a folder an experiment's.
_STEPS_FOLDER = ".steps"
# Raised when the result of a step would come out differently: every step is redone then.
_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """The state of a step, and a note for people, such as the reason why data are missing.

    ``stale`` is done, but with other inputs; ``begun`` is a training that has a checkpoint.
    """

    state: Literal["done", "stale", "begun", "missing"]
    note: str = ""


@dataclass(frozen=True)
class Step(ABC):
    """A unit of work with one result.

    Attributes:
        id: also the path of the result below the experiment's folder.
        inputs: ids of the steps whose results it uses.
        stage: the Slurm stage that it belongs to; None if there is nothing to do.
        counts_images: whether :meth:`run_together` reports images.
    """

    id: str
    inputs: tuple[str, ...]
    stage: ClassVar[str | None] = None
    counts_images: ClassVar[bool] = False

    @abstractmethod
    def run(self, folder: "ExperimentFolder") -> None:
        """Do the work and write the output, or raise a UserError."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that determines the result besides its inputs, as JSON values.

        Values equal to the default are left out, so that a new field changes no finished step.
        """

    def companions(self, ready: Sequence["Step"], folder: "ExperimentFolder") -> list["Step"]:
        """This step and those of ``ready`` that are to be run together with it."""
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
        """The splits that it reads."""
        return []

    def checkpoint(self) -> str | None:
        """A checkpoint from outside the experiment that determines the result, if there is one."""
        return None

    def fingerprint(self, folder: "ExperimentFolder") -> str:
        """A hash of the finished result."""
        record = folder.record(self)
        return record.result.fingerprint if record else ""

    def status(self, folder: "ExperimentFolder") -> Status:
        """The state of the step."""
        return folder.recorded_status(self)

    def update_labels(self, folder: "ExperimentFolder") -> None:
        """Bring titles and the like in a finished result up to date."""
        return


class StepRecord(Section):
    """``.steps/ID.json``: what a finished step was made from, and what it wrote."""

    step: str
    inputs: str
    result: Stamp
    seconds: float


class ExperimentFolder:
    """The results of an experiment's steps.

    A step is done if its output exists, is what the step wrote, and was made from what would be
    used now: the same settings, the same inputs, the same images on disk.
    """

    def __init__(self, path: Path, steps: Mapping[str, Step]) -> None:
        self.path = path
        self._steps = steps
        self._statuses: dict[str, Status] = {}
        self._hashes = FileHashes()
        self._domains: dict[str, Opened] = {}

    @property
    def is_begun(self) -> bool:
        """Whether the folder is an experiment's already."""
        return (self.path / _STEPS_FOLDER).is_dir()

    def begin(self) -> None:
        """Make the folder an experiment's."""
        with readable_os_errors(self.path):
            (self.path / _STEPS_FOLDER).mkdir(parents=True, exist_ok=True)

    def check(self, data: Iterable[str | None]) -> None:
        """Refuse a folder in which results would lie among other files.

        Args:
            data: folders that the experiment reads.

        Raises:
            UserError: it is or contains the working directory, the home directory or the data; it
                lies in the data; or it holds other files.
        """
        check_apart(self.path, dict.fromkeys(data))
        with readable_os_errors(self.path):
            target = real_path(self.path)
            if not target.exists() or (target / _STEPS_FOLDER).is_dir():
                return
            if not target.is_dir() or any(target.iterdir()):
                raise UserError(
                    f"{self.path} exists and is no experiment's folder: choose another output"
                )

    def model_of(self, step_id: str) -> str:
        """The folder or Hub ID that the network of a step is loaded from."""
        return self._steps[step_id].model(self)

    def status(self, step_id: str) -> Status:
        """The state of a step, cached until the step is finished."""
        if step_id not in self._statuses:
            self._statuses[step_id] = self._steps[step_id].status(self)
        return self._statuses[step_id]

    def done(self, step_id: str) -> bool:
        """Whether a step needs no work."""
        return self.status(step_id).state == "done"

    def finish(self, step: Step, seconds: float) -> None:
        """Record that the output of a step has been written.

        Raises:
            UserError: it is missing, or something that it was made from is.
        """
        output, inputs = step.output(self), self.input_hash(step)
        if inputs is None or not output.is_file():
            raise UserError(f"{step.id} left no {output}")
        stamp = self._hashes.stamp(output)
        self._write(
            StepRecord(step=step.id, inputs=inputs, result=stamp, seconds=round(seconds, 2))
        )
        self._forget(step.id)

    def restamp(self, step: Step) -> None:
        """Keep a step done although its output was rewritten with other labels."""
        record = self.record(step)
        if record is not None:
            stamp = self._hashes.stamp(step.output(self))
            self._write(record.model_copy(update={"result": stamp}))

    def record(self, step: Step) -> StepRecord | None:
        """The record of a finished step; None if there is none, or it is damaged."""
        path = self._record_path(step.id)
        if not path.exists():
            return None
        try:
            return StepRecord.model_validate(read_json_object(path))
        except (UserError, ValidationError):
            _log.info("%s is damaged: the step is done again", path)
            return None

    def recorded_status(self, step: Step) -> Status:
        """The state of a step according to its record."""
        output = step.output(self)
        record = self.record(step) if output.is_file() else None
        if record is not None:
            inputs = self.input_hash(step)
            if inputs == record.inputs and self._hashes.is_same(output, record.result):
                return Status("done")
        return Status("stale" if record else "missing", self.missing_data(step) or "")

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
        """A fingerprint of a checkpoint; see :meth:`FileHashes.of_checkpoint`."""
        return self._hashes.of_checkpoint(source)

    def missing_data(self, step: Step) -> str | None:
        """The reason why a step's images cannot be read, if they cannot."""
        try:
            missing = (one for split in step.images() for one in self._opened(*split).missing)
            return next((reason for _, reason in missing), None)
        except UserError as error:
            return str(error)

    def image_count(self, step: Step) -> int:
        """The number of images that a step reads."""
        return sum(self._opened(*split).images for split in step.images())

    @contextmanager
    def locked(self, step: Step) -> Iterator[None]:
        """Keep other processes from doing the same step.

        Raises:
            UserError: another one is doing it.
        """
        lock = FileLock(self.path / _STEPS_FOLDER / f"{step.id.replace('/', '__')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError("another process is doing this step") from error
        try:
            yield
        finally:
            lock.release()

    def _forget(self, step_id: str) -> None:
        """Drop the cached states of a step and of everything made from it."""
        if self._statuses.pop(step_id, None) is not None:
            for other in self._steps.values():
                if step_id in other.inputs:
                    self._forget(other.id)

    def _opened(self, spec: DomainSpec, split: str) -> Opened:
        key = json.dumps([spec.model_dump(mode="json"), split], sort_keys=True)
        if key not in self._domains:
            self._domains[key] = open_domain(
                spec.domain, split, spec.data_dir, spec.config, spec.options
            )
        return self._domains[key]

    def _record_path(self, step_id: str) -> Path:
        return self.path / _STEPS_FOLDER / f"{step_id}.json"

    def _write(self, record: StepRecord) -> None:
        write_json(self._record_path(record.step), record.model_dump(mode="json"))


def hash_of(values: Any) -> str:
    """The sha256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
