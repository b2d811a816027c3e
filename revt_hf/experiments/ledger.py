"""What of an experiment has been done: hashed inputs and results, a file for each step."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, TypeAdapter

from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.config.domain_spec import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.data.domains import open_domain
from revt_hf.data.domains.base import Opened
from revt_hf.evaluation.result import read_results
from revt_hf.experiments.contents import Contents, check_stamp, fingerprint_of
from revt_hf.experiments.folder import STEPS_FOLDER
from revt_hf.experiments.graph import (
    Average,
    Choose,
    Given,
    Graph,
    MergeWork,
    Recalibrate,
    Score,
    Step,
    Train,
    settings_of,
)
from revt_hf.training.run_checkpoints import newest_checkpoint
from revt_hf.training.run_folder import training_folder

State = Literal["done", "stale", "begun", "missing"]
# Raised when a step's result would come out differently: every step is done again then.
_VERSION = 1
# What an entry must hold to be one, beside the result's stamp: a hash and seconds.
_ENTRY = TypeAdapter(tuple[str, FiniteFloat])
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """Where a step stands.

    Attributes:
        state: ``done``; ``stale``, done with other inputs; ``begun``, a training that has a
            checkpoint; ``missing``.
        note: what a person should know, such as that data are missing.
    """

    state: State
    note: str = ""


class Ledger:
    """The state of an experiment's folder.

    A step is done if its result is there, is what the step wrote, and was made from what would
    be taken now: same settings, same models going in, same images on disk.
    """

    def __init__(self, graph: Graph, folder: Path) -> None:
        self._graph = graph
        self.folder = folder
        self._statuses: dict[str, Status] = {}
        self._contents = Contents()
        self._domains: dict[str, Opened] = {}

    def folder_of(self, step_id: str) -> Path:
        """The model folder (or, of a given checkpoint, the folder or Hub id) of a step."""
        step = self._graph.steps.get(step_id)
        if step is not None and isinstance(step.work, Given):
            return Path(step.work.checkpoint)
        if step is not None and isinstance(step.work, Average):
            return self.folder_of(step.work.training) / step.work.kind
        return self.folder / step_id

    def model_of(self, step_id: str) -> str:
        """Where a step's network is loaded from."""
        return str(self.folder_of(step_id))

    def result_of(self, step_id: str) -> Path:
        """The file whose presence says that a step has finished."""
        work = self._graph.steps[step_id].work
        if isinstance(work, Score | Choose):
            return self.folder / f"{step_id}.json"
        return Path(self.model_of(step_id)) / WEIGHTS_FILE

    def evaluation_of(self, protocol: str, network: str) -> Path:
        """Where the evaluation of a network lies."""
        return self.folder / f"results/{protocol}/{network}.json"

    def status(self, step_id: str) -> Status:
        """Where a step stands; looked up once until the step is done again."""
        if step_id not in self._statuses:
            self._statuses[step_id] = self._look(self._graph.steps[step_id])
        return self._statuses[step_id]

    def done(self, step_id: str) -> bool:
        """Whether a step need not be done."""
        return self.status(step_id).state == "done"

    def finish(self, step_id: str, seconds: float) -> None:
        """Write down that a step's result is there now.

        Raises:
            UserError: it is not there, or what it was made from is not.
        """
        result = self.result_of(step_id)
        inputs = self.inputs(step_id)
        if inputs is None or not result.is_file():
            raise UserError(f"{step_id} left no {result}")
        entry = {
            "step": step_id,
            "inputs": inputs,
            "result": self._contents.stamp(result),
            "seconds": round(seconds, 2),
        }
        write_json(self._entry(step_id), entry)
        self._forget(step_id)

    def refresh(self, step_id: str) -> None:
        """A result's labels were written anew: it stays done."""
        entry = self._read(step_id)
        stamp = self._contents.stamp(self.result_of(step_id))
        write_json(self._entry(step_id), {**entry, "result": stamp})

    def seconds(self, step_id: str) -> float | None:
        """How long a step took, if it was done."""
        value = self._read(step_id).get("seconds")
        return float(value) if value is not None else None

    def inputs(self, step_id: str) -> str | None:
        """A hash of all that decides a step's result; None while something is missing."""
        step = self._graph.steps[step_id]
        if not all(self.done(need) for need in step.needs):
            return None
        settings = settings_of(step, self._graph)
        try:
            parts = {
                "version": _VERSION,
                "settings": settings,
                "needs": [self.fingerprint(need) for need in step.needs],
                "images": [self._opened(*place).content for place in self._images(step)],
                "init": self._outside(step),
            }
        except UserError:
            return None
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def fingerprint(self, step_id: str) -> str:
        """A hash of a finished step's result."""
        step = self._graph.steps[step_id]
        if isinstance(step.work, Given | Average):
            return self._contents.of_checkpoint(self.model_of(step_id))
        if isinstance(step.work, Score):
            # Not its labels, which may change.
            results = read_results([self.result_of(step_id)])
            scores = [result.model_dump(mode="json", include={"scores"}) for result in results]
            return hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest()
        return fingerprint_of(self._read(step_id)["result"])

    def missing_data(self, step_id: str) -> str | None:
        """Why a step's images cannot be read, if they cannot."""
        try:
            for spec, split in self._images(self._graph.steps[step_id]):
                opened = self._opened(spec, split)
                if opened.missing:
                    return opened.missing[0][1]
        except UserError as error:
            return str(error)
        return None

    def images(self, step_id: str) -> int:
        """How many images a step reads."""
        places = self._images(self._graph.steps[step_id])
        return sum(self._opened(*place).images for place in places)

    def _forget(self, step_id: str) -> None:
        """Look again at a step and all that need it."""
        if self._statuses.pop(step_id, None) is not None:
            for other in self._graph.steps.values():
                if step_id in other.needs:
                    self._forget(other.id)

    def _look(self, step: Step) -> Status:
        if isinstance(step.work, Given):
            try:
                self._contents.of_checkpoint(step.work.checkpoint)
            except UserError as error:
                return Status("missing", str(error))
            return Status("done")
        if isinstance(step.work, Average):
            if not self.done(step.work.training):
                return Status("missing")
            if not self.result_of(step.id).is_file():
                return Status("missing", f"{step.work.training} left no {step.work.kind}/")
            return Status("done")
        result, entry = self.result_of(step.id), {}
        if result.is_file():
            entry = self._read(step.id)
            inputs = self.inputs(step.id)
            known = inputs is not None and entry.get("inputs") == inputs
            if known and self._contents.is_same(result, entry["result"]):
                return Status("done")
        note = self.missing_data(step.id) or ""
        if isinstance(step.work, Train):
            own = self.folder_of(step.id)
            folder = training_folder(own)
            begun = newest_checkpoint(folder)
            # Beside an older result lies what is to replace it.
            if begun and (not entry or folder != own):
                return Status("begun", note or f"step {begun[1]} of {step.work.recipe.train.steps}")
        return Status("stale" if entry else "missing", note)

    def _outside(self, step: Step) -> str | None:
        """A hash of what comes from outside of the experiment: a recipe's start, a merge's base."""
        source = None
        if isinstance(step.work, Score):
            step = self._graph.passing.get(step.work.network, step)
        if isinstance(step.work, Train):
            source = step.work.recipe.model.init
        elif isinstance(step.work, MergeWork) and step.work.base not in self._graph.steps:
            source = step.work.base
        return self._contents.of_checkpoint(source) if source is not None else None

    def _images(self, step: Step) -> list[tuple[DomainSpec, str]]:
        """The splits that a step reads."""
        work = step.work
        if isinstance(work, Train):
            validated = [
                (s, s.val) for s in work.recipe.sources if work.recipe.train.validate_every
            ]
            return [*((source, source.train) for source in work.recipe.sources), *validated]
        if isinstance(work, Recalibrate):
            return [(source, source.train) for source in work.sources]
        if isinstance(work, Score):
            return [(split.spec, split.split) for split in self._graph.splits]
        return []

    def _opened(self, spec: DomainSpec, split: str) -> Opened:
        key = json.dumps([spec.model_dump(mode="json"), split], sort_keys=True)
        if key not in self._domains:
            self._domains[key] = open_domain(
                spec.domain, split, spec.data_dir, spec.config, spec.options
            )
        return self._domains[key]

    def _entry(self, step_id: str) -> Path:
        return self.folder / STEPS_FOLDER / f"{step_id}.json"

    def _read(self, step_id: str) -> dict[str, Any]:
        path = self._entry(step_id)
        if not path.exists():
            return {}
        try:
            entry = read_json_object(path)
            _ENTRY.validate_python([entry["inputs"], entry.get("seconds", 0.0)])
            check_stamp(entry["result"])
        except (UserError, ValueError, LookupError, TypeError):
            _LOG.info("%s is damaged: the step is done again", path)
            return {}
        return entry
