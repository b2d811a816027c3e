"""The steps of an experiment that end with scores: scoring networks, and choosing among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_json
from revt_hf.evaluation.result import (
    Kind,
    PaperKey,
    Result,
    Selected,
    SplitSpec,
    read_results,
    write_results,
)
from revt_hf.experiments.experiment_folder import ExperimentFolder, Step, hash_of
from revt_hf.experiments.experiment_recipe import Evaluate
from revt_hf.experiments.model_steps import MergeStep, changed_values

# Weights held at a time; a single network may exceed it.
_MOST_BYTES = 3 * 2**30
# An interruption loses no more scores than these.
_MOST_NETWORKS = 12


@dataclass(frozen=True)
class Network:
    """A network to score: one step's model, or several that are combined.

    ``group`` is its row in the table; ``parts`` are steps, the first of which provides the head.
    """

    id: str
    group: str
    kind: Kind
    seed: int | None
    parts: tuple[str, ...]
    head: str | None = None
    paper: PaperKey | None = None
    combine: str | None = None

    @property
    def labels(self) -> dict[str, Any]:
        """The fields of a result that may change without scoring again."""
        return {name: getattr(self, name) for name in ("group", "kind", "seed", "paper")}


@dataclass(frozen=True)
class Score(Step):
    """Score a network on all splits by one protocol."""

    network: Network
    protocol_name: str
    protocol: Protocol
    splits: tuple[SplitSpec, ...]
    evaluate: Evaluate
    merge: MergeStep | None = None
    stage = "score"
    counts_images = True

    def run(self, folder: ExperimentFolder) -> None:
        self.run_together([self], folder)

    def run_together(
        self,
        steps: Sequence[Step],
        folder: ExperimentFolder,
        on_image: Callable[[], object] = lambda: None,
    ) -> None:
        from revt_hf.experiments.network_scores import score_networks

        score_networks([step for step in steps if isinstance(step, Score)], folder, on_image)

    def companions(self, ready: Sequence[Step], folder: ExperimentFolder) -> list[Step]:
        """The next scores by the same protocol whose networks fit into memory together."""
        held = self._sizes(folder)
        found: list[Step] = [self]
        for step in ready:
            if not isinstance(step, Score) or step is self:
                continue
            together = held | step._sizes(folder)
            if (
                len(found) == _MOST_NETWORKS
                or step.protocol_name != self.protocol_name
                or sum(together.values()) > _MOST_BYTES
            ):
                break
            found.append(step)
            held = together
        return found

    def _sizes(self, folder: ExperimentFolder) -> dict[str, int]:
        if self.merge is not None:
            return {}
        weights = {part: Path(folder.model_of(part)) / WEIGHTS_FILE for part in self.network.parts}
        return {part: w.stat().st_size if w.is_file() else 0 for part, w in weights.items()}

    def settings(self) -> dict[str, Any]:
        return {
            "merge": self.merge.settings() if self.merge else None,
            "protocol": changed_values(self.protocol),
            "splits": [[changed_values(s.spec), s.split, s.is_source] for s in self.splits],
            "combine": self.network.combine,
            "cost": self.evaluate.cost,
        }

    def output(self, folder: ExperimentFolder) -> Path:
        return folder.path / f"{self.id}.json"

    def images(self) -> list[tuple[DomainSpec, str]]:
        return [(split.spec, split.split) for split in self.splits]

    def checkpoint(self) -> str | None:
        return self.merge.checkpoint() if self.merge else None

    def fingerprint(self, folder: ExperimentFolder) -> str:
        """A hash of the scores; the labels beside them may change."""
        return hash_of(read_result(self.output(folder)).model_dump(mode="json", include={"scores"}))

    def update_labels(self, folder: ExperimentFolder) -> None:
        result = read_result(self.output(folder))
        relabelled = result.model_copy(update=self.network.labels)
        if relabelled != result:
            write_results(self.output(folder), [relabelled])
            record = folder.record(self)
            folder.finish(self, record.seconds if record else 0)


@dataclass(frozen=True)
class Choose(Step):
    """Take the best of ``candidates`` (networks) by the mean mIoU on ``on`` (labels of splits)."""

    network: Network
    candidates: tuple[str, ...]
    on: tuple[str, ...]
    on_target: bool
    protocols: tuple[str, ...]
    stage = "select"

    def run(self, folder: ExperimentFolder) -> None:
        """Write what was chosen, and its results under the selection's own name."""
        scores = {}
        for candidate in self.candidates:
            result = read_result(result_file(folder, self.protocols[0], candidate))
            miou = {score.label: score.miou for score in result.scores}
            scores[candidate] = sum(miou[label] for label in self.on) / len(self.on)
        best = max(scores, key=lambda candidate: scores[candidate])
        selected = Selected(on=self.on, target=self.on_target, candidates=len(scores), chosen=best)
        for protocol in self.protocols:
            result = read_result(result_file(folder, protocol, best))
            renamed = result.model_copy(update={**self.network.labels, "selected": selected})
            write_results(result_file(folder, protocol, self.id), [renamed])
        write_json(self.output(folder), {"chosen": best, "on": list(self.on), "scores": scores})

    def settings(self) -> dict[str, Any]:
        return {"candidates": self.candidates, "on": self.on}

    def output(self, folder: ExperimentFolder) -> Path:
        return folder.path / f"{self.id}.json"


def result_file(folder: ExperimentFolder, protocol: str, network: str) -> Path:
    """The file of a network's result."""
    return folder.path / f"results/{protocol}/{network}.json"


def read_result(path: Path) -> Result:
    """The result of a scored network."""
    try:
        (result,) = read_results([path])
        return result
    except (UserError, ValueError) as error:
        raise UserError(f"cannot read the result {path}: delete it and run again") from error
