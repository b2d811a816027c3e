"""Result files: scores of models on datasets, written and read by every command alike."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError

from revt_hf.config.protocol import Protocol
from revt_hf.config.yaml_files import Section, validation_sentence
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_text

LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "revt_hf",
)
FORMAT: Literal["revt_hf.results/1"] = "revt_hf.results/1"
_FAMILY = FORMAT.partition("/")[0] + "/"

Kind = Literal["init", "member", "merge", "recalibrated", "ensemble", "selection"]
Percent = Annotated[float, Field(ge=0, le=100)]
Amount = Annotated[float, Field(ge=0)]
# Small enough to become a float.
Whole = Annotated[int, Field(ge=0, le=10**18)]


class _Part(Section):
    model_config = ConfigDict(serialize_by_alias=True)


class Scores(_Part):
    """Dataset-level scores in percent, by class name where there is one for each class.

    A class without a single labelled or predicted pixel has no IoU (None) and does not count in
    the mean; one that is only predicted has IoU 0 and does. Accuracy is None for classes without
    labelled pixels. This is mmsegmentation 0.x ``core/evaluation/metrics.py`` (``mean_iou``).
    ``subsets`` holds the mIoU over ``synthia16`` and ``synthia13``.
    """

    miou: Percent = Field(alias="mIoU")
    aacc: Percent = Field(alias="aAcc")
    iou: dict[str, Percent | None] = Field(default={}, alias="IoU")
    accuracy: dict[str, Percent | None] = Field(default={}, alias="Acc")
    subsets: dict[str, Percent | None] = Field(default={})

    def over(self, classes: str | None) -> float | None:
        """The mIoU over all classes, or over a subset; None if the subset has none."""
        return self.miou if classes is None else self.subsets.get(classes)


class DomainScore(Scores):
    """The scores on one split of a domain; ``label`` is its short name, unique in a result."""

    label: str
    domain: str
    config: str | None = None
    data_dir: str | None = None
    split: str
    is_source: bool
    images: Annotated[int, Field(gt=0)]
    label_encoding: str | None = None


class Cost(_Part):
    """The cost of predicting one image, at batch size 1."""

    parameters: Whole
    flops: Whole
    images_per_second: Amount
    peak_mib: Amount | None = None
    image_size: tuple[Whole, Whole] | None = None
    device: str | None = None


class EnsembleInfo(_Part):
    """How the models of an ensemble are combined; ``head`` counts from 1."""

    members: Whole
    combine: str
    head: Whole | None = None


class PaperKey(_Part):
    """A row of the paper's table: training domain, SegFormer size and augmentation methods."""

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
    """Weights that were scored."""

    path: str
    sha256: str | None = None


class Provenance(_Part):
    """How and where a result was measured."""

    recipe: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    versions: dict[str, str] = Field(default={})
    device: str | None = None
    seconds: Amount | None = None


class Result(_Part):
    """One model, or several as an ensemble, scored on some splits by one protocol.

    Attributes:
        model: its name; a folder or Hub id where nothing else names it.
        network_sha256: of each network (:func:`revt_hf.models.load.network_sha256`); the model's
            name may stand for other weights tomorrow.
        ensemble: how several networks are combined.
        protocol: how images reached the network.
        scores: one for each split.
        cost: of one prediction, if it was measured.
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
        """The title of its row in a table."""
        return self.group or self.model

    @property
    def weights(self) -> str | None:
        """What identifies its weights, if that is known."""
        known = self.network_sha256 or tuple(one.sha256 or "" for one in self.checkpoints)
        return " ".join(known) if all(known) and known else None

    def compact(self) -> "Result":
        """What tables and curves need, for files that are published; IoU in two decimals."""
        scores = tuple(
            score.model_copy(
                update={
                    "data_dir": None,
                    "accuracy": {},
                    "iou": {k: None if v is None else round(v, 2) for k, v in score.iou.items()},
                }
            )
            for score in self.scores
        )
        return self.model_copy(update={"scores": scores, "provenance": None})


class ResultFile(_Part):
    """The content of a result file."""

    format: Literal["revt_hf.results/1"] = FORMAT
    results: Annotated[tuple[Result, ...], Field(min_length=1)]


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write a result file, atomically; each result is one line, so that a diff shows changes."""
    lines = [
        json.dumps(result.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
        for result in results
    ]
    head = f'{{"format": {json.dumps(FORMAT)}, "results": ['
    write_text(path, "\n".join([head, ",\n".join(lines), "]}"]) + "\n")


def read_results(paths: Sequence[Path]) -> list[Result]:
    """All results in files and folders, in their order; a file that is named twice counts once.

    Args:
        paths: result files, and folders in which every result file (``*.json``) is read, in the
            order of their names. Hidden folders, which hold unfinished work, are skipped.

    Raises:
        UserError: a file is no result file, cannot be read or has a wrong value; a folder has none.
    """
    found: dict[Path, list[Result]] = {}
    for path in paths:
        if not path.is_dir():
            found[path.resolve()] = _results(_json(path), path)
            continue
        inside = {file: _json(file, lenient=True) for file in _json_files(path)}
        files = {file: value for file, value in inside.items() if _is_result_file(value)}
        if not files:
            raise UserError(f"{path} holds no result file of revt evaluate --json or revt run")
        found.update((file.resolve(), _results(value, file)) for file, value in files.items())
    return [result for results in found.values() for result in results]


def _results(value: Any, path: Path) -> list[Result]:
    if not _is_result_file(value):
        raise UserError(f"{path} is not a result file of revt evaluate --json or revt run")
    try:
        results = ResultFile.model_validate(value).results
    except ValidationError as error:
        raise UserError(validation_sentence(ResultFile, error, f"{path}")) from error
    for result in results:
        result._path = path
    return list(results)


def _is_result_file(value: Any) -> bool:
    """Whether it is one, of any version; other versions are refused when they are validated."""
    return isinstance(value, dict) and str(value.get("format")).startswith(_FAMILY)


def _json_files(folder: Path) -> list[Path]:
    paths = sorted(folder.rglob("*.json"))
    return [p for p in paths if not any(x.startswith(".") for x in p.relative_to(folder).parts)]


def _json(path: Path, lenient: bool = False) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if lenient:
            return None
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        return None
