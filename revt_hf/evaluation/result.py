"""Splits to score on, and result files; without torch, for plans and tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, model_serializer

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, Recipe, Source
from revt_hf.config.yaml_files import Section, validation_sentence
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_text
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.evaluation.calibration import Amount, Calibration, Percent, Whole

FORMAT: Literal["revt_hf.results/1"] = "revt_hf.results/1"
_FAMILY = FORMAT.partition("/")[0] + "/"

Kind = Literal["init", "member", "merge", "recalibrated", "refit", "ensemble", "selection"]


@dataclass(frozen=True)
class SplitSpec:
    """A split to score on, and whether it belongs to the models' training domain."""

    spec: DomainSpec
    split: str
    is_source: bool

    @property
    def label(self) -> str:
        # Tables are made without the libraries of revt_hf.data.
        from revt_hf.data.domains import domain_label

        return domain_label(self.spec, self.split)


def splits_of(recipe: Recipe) -> list[SplitSpec]:
    """Every source's val and all targets of a recipe."""
    targets = [SplitSpec(target, target.split, is_source=False) for target in recipe.targets]
    return check_labels([*source_splits(recipe.sources), *targets])


def source_splits(sources: Sequence[Source]) -> list[SplitSpec]:
    """The val splits of training domains."""
    return check_labels([SplitSpec(source, source.val, is_source=True) for source in sources])


def check_labels(splits: Sequence[SplitSpec]) -> list[SplitSpec]:
    """The splits, if each has a label of its own: results name them by it alone."""
    known: dict[str, SplitSpec] = {}
    for split in splits:
        other = known.setdefault(split.label, split)
        if other is not split:
            raise UserError(
                f"two splits are called '{split.label}', so their results could not be told apart: "
                f"{_described(other)} and {_described(split)}; name only one of them, or give "
                "their folders other names"
            )
    return list(splits)


def _described(split: SplitSpec) -> str:
    spec = split.spec
    parts = [spec.domain, spec.config, spec.data_dir]
    parts += [f"{key}={value}" for key, value in spec.options.items()]
    kind = "source" if split.is_source else "target"
    return f"the {kind} {' '.join(str(part) for part in parts if part)}"


class _Part(Section):
    model_config = ConfigDict(serialize_by_alias=True)


class Scores(_Part):
    """Scores of a dataset in percent, as mmsegmentation 0.x ``core/evaluation/metrics.py``.

    A class without a pixel has no IoU (None) and does not count; one only predicted has IoU 0.
    """

    miou: Percent = Field(alias="mIoU")
    aacc: Percent = Field(alias="aAcc")
    iou: dict[str, Percent | None] = Field(default={}, alias="IoU")
    accuracy: dict[str, Percent | None] = Field(default={}, alias="Acc")
    subsets: dict[str, Percent | None] = Field(default={})
    # Labelled pixels whose prediction has no counterpart; only with a mapping of classes.
    lost: Percent | None = None

    def over(self, classes: str | None) -> float | None:
        return self.miou if classes is None else self.subsets.get(classes)


class DomainScore(Scores):
    label: str  # short, and unique in a result
    domain: str
    config: str | None = None
    data_dir: str | None = None
    split: str
    is_source: bool
    images: Annotated[int, Field(gt=0)]
    label_encoding: str | None = None
    calibration: Calibration | None = None

    @property
    def names(self) -> tuple[str, str, str]:
        """What the split may be called: ``night/val``, ``night`` or its domain ``streets``."""
        return self.label, self.label.rpartition("/")[0], self.domain

    @model_serializer(mode="wrap")
    def _values(self, handler: Any) -> dict[str, Any]:
        """Without calibration files are as they were before it could be measured."""
        values: dict[str, Any] = handler(self)
        return {k: v for k, v in values.items() if k != "calibration" or v is not None}


class Cost(_Part):
    # Of predicting one image, at batch size 1.
    parameters: Whole
    flops: Whole
    images_per_second: Amount
    peak_mib: Amount | None = None
    image_size: tuple[Whole, Whole] | None = None
    device: str | None = None


class EnsembleInfo(_Part):
    members: Whole
    combine: str
    head: Whole | None = None  # counts from 1


class PaperKey(_Part):
    source: str
    size: str
    methods: tuple[int, ...]


class Selected(_Part):
    """What a model was selected on, from how many candidates, and which one was chosen."""

    on: tuple[str, ...]
    target: bool
    candidates: Whole
    chosen: str | None = None


class CheckpointHash(_Part):
    path: str
    sha256: str | None = None


class Provenance(_Part):
    recipe: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    versions: dict[str, str] = Field(default={})
    device: str | None = None
    seconds: Amount | None = None


class Result(_Part):
    """One model, or several as an ensemble, scored on some splits by one protocol.

    Attributes:
        model: its name; a folder or Hub id where nothing else names it.
        network_sha256: of each network; the model's name may stand for other weights tomorrow.
        ensemble: how several networks are combined.
        protocol: how images reached the network.
        scores: one for each split.
        cost: of one prediction, if it was measured.
        mapping: which of the models' classes counted as which of the domains', if they differ.
        group: row of a table, such as all seeds of a member; None for a row of its own.
        kind: place of that row in the table.
        size: of the SegFormer, such as ``b5``; tells experiments with the same names apart.
        seed: the seed it was trained with, or that of its members.
        head: the member whose decode head a merge has.
        protocol_name: the experiment's name for the protocol.
        paper: the row of the paper's table to compare with.
        selected: how the model was selected among several.
        checkpoints: the weights' files.
        provenance: how it was made and measured.
    """

    model: str
    network_sha256: tuple[str, ...] = ()
    ensemble: EnsembleInfo | None = None
    group: str | None = None
    kind: Kind | None = None
    size: str | None = None
    seed: int | None = None
    head: str | None = None
    protocol_name: str | None = None
    protocol: Protocol
    mapping: ClassMapping | None = None
    paper: PaperKey | None = None
    selected: Selected | None = None
    checkpoints: tuple[CheckpointHash, ...] = ()
    cost: Cost | None = None
    scores: Annotated[tuple[DomainScore, ...], Field(min_length=1)]
    provenance: Provenance | None = None
    _path: Path = PrivateAttr(default=Path("these results"))

    @property
    def path(self) -> Path:
        """The file it was read from, for messages."""
        return self._path

    @property
    def row(self) -> str:
        return self.mapped(self.group or self.model)

    def mapped(self, title: str) -> str:
        """A title that tells by which mapping of classes it was scored, if by any."""
        return f"{title} (mapping {self.mapping.name})" if self.mapping else title

    @property
    def weights(self) -> str | None:
        """What identifies its weights, if that is known."""
        known = self.network_sha256 or tuple(one.sha256 or "" for one in self.checkpoints)
        return " ".join(known) if all(known) and known else None

    def compact(self) -> "Result":
        """What tables and curves need, for files that are published; IoU in two decimals."""
        scores = []
        for score in self.scores:
            iou = {k: None if v is None else round(v, 2) for k, v in score.iou.items()}
            bare = score.calibration and score.calibration.model_copy(update={"bins": ()})
            changes = {"data_dir": None, "accuracy": {}, "iou": iou, "calibration": bare}
            scores.append(score.model_copy(update=changes))
        return self.model_copy(update={"scores": tuple(scores), "provenance": None})


class ResultFile(_Part):
    format: Literal["revt_hf.results/1"] = FORMAT
    results: Annotated[tuple[Result, ...], Field(min_length=1)]


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write a result file, atomically; each result is one line, so that a diff shows changes."""
    values = [result.model_dump(mode="json") for result in results]
    lines = [json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values]
    head = f'{{"format": {json.dumps(FORMAT)}, "results": ['
    write_text(path, "\n".join([head, ",\n".join(lines), "]}"]) + "\n")


def read_results(paths: Sequence[str | Path]) -> list[Result]:
    """All results in files and folders, in their order; a file that is named twice counts once.

    Args:
        paths: result files, and folders in which every result file (``*.json``) is read, in the
            order of their names. Hidden folders, which hold unfinished work, are skipped.

    Raises:
        UserError: a file is no result file, cannot be read or has a wrong value; a folder has none.
    """
    if isinstance(paths, str):
        raise UserError(f"pass a list of files and folders, not {paths}")
    found: dict[Path, tuple[Result, ...]] = {}
    for path in map(Path, paths):
        values = {file: _result_file(file, path) for file in _json_files(path)}
        files = {file: value for file, value in values.items() if value is not None}
        if not files:
            what = "holds no" if path.is_dir() else "is not a"
            raise UserError(f"{path} {what} result file of revt evaluate --json or revt run")
        found.update((file.resolve(), _results(value, file)) for file, value in files.items())
    return [result for results in found.values() for result in results]


def _json_files(path: Path) -> list[Path]:
    """The file itself, or those in a folder that are not hidden."""
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.json"))
    return [f for f in files if not any(x.startswith(".") for x in f.relative_to(path).parts)]


def _result_file(file: Path, given: Path) -> dict[str, Any] | None:
    """The content of a result file of any version; others are refused when it is validated."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        if file != given:
            return None
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(value, dict) and str(value.get("format")).startswith(_FAMILY)
    return value if is_ours else None


def _results(value: dict[str, Any], path: Path) -> tuple[Result, ...]:
    try:
        results = ResultFile.model_validate(value).results
    except ValidationError as error:
        raise UserError(validation_sentence(ResultFile, error, f"{path}")) from error
    for result in results:
        result._path = path
    return results
