"""Evaluation files: read, checked, and written again in a compact form."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from revt_hf.config.protocol import Protocol
from revt_hf.config.sections import validation_sentence
from revt_hf.core.errors import UserError
from revt_hf.results.paper import PaperRow, paper_row

FORMAT: Literal["revt_hf.evaluation/1"] = "revt_hf.evaluation/1"
_FAMILY = FORMAT.partition("/")[0] + "/"
_WHAT = "an evaluation of revt run, a list of them, or the results of revt evaluate --json"

Kind = Literal["init", "member", "merge", "recalibrated", "ensemble", "selection"]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Read(BaseModel):
    """Keys that are not known here are of no interest to a table."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Paper(_Read):
    """Which row of the paper's table a network is to be compared with."""

    source: str
    size: str
    methods: tuple[int, ...]

    @property
    def row(self) -> PaperRow:
        """That row."""
        return paper_row(self.source, self.size, self.methods)

    @model_validator(mode="after")
    def _exists(self) -> "Paper":
        try:
            paper_row(self.source, self.size, self.methods)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


class Selected(_Read):
    """What a network was chosen on, and whether that was a target domain."""

    on: tuple[str, ...]
    target: bool
    candidates: int


class Cost(_Read):
    """What a network costs: FLOPs of one image, memory in MiB if it ran on a GPU."""

    parameters: float
    flops: float
    images_per_second: float
    peak_mib: float | None = None


class DomainScore(_Read):
    """The scores on one split of a domain, in percent."""

    domain: str
    config: str | None = None
    split: str
    label: str
    is_source: bool
    miou: Percent = Field(alias="mIoU")
    aacc: Percent = Field(alias="aAcc")
    subsets: dict[str, Percent | None] = {}
    images: Annotated[int, Field(gt=0)]
    label_encoding: str | None = None
    iou: dict[str, Percent | None] = Field(default={}, alias="IoU")

    def over(self, classes: str | None) -> float | None:
        """The mIoU over all classes, or over a subset's if it has a value."""
        return self.miou if classes is None else self.subsets.get(classes)


class Measurement(_Read):
    """A network scored by one protocol; ``path`` is the file that says so.

    ``group`` names the table's row, and ``kind`` its place; None where nobody said what it is.
    ``size`` of the SegFormer, such as ``b5``, keeps experiments apart that use the same names.
    """

    format: Literal["revt_hf.evaluation/1"] = FORMAT
    model: str
    group: str
    kind: Kind | None = None
    size: str | None = None
    seed: int | None = None
    head: str | None = None
    protocol_name: str | None = None
    protocol: dict[str, Any]
    paper: Paper | None = None
    selection: Selected | None = None
    cost: Cost | None = None
    sha256: str | None = None
    results: Annotated[tuple[DomainScore, ...], Field(min_length=1)]
    path: Path = Field(exclude=True)

    @property
    def views(self) -> Protocol:
        """The protocol's values; those that an old file does not name are the defaults."""
        known = {k: v for k, v in self.protocol.items() if k in Protocol.model_fields}
        return Protocol.model_validate(known)

    @model_validator(mode="after")
    def _known_protocol(self) -> "Measurement":
        try:
            _ = self.views
        except ValidationError as error:
            sentence = validation_sentence(Protocol, error, "protocol")
            raise ValueError(sentence) from error
        return self


def read_measurements(paths: Sequence[Path]) -> list[Measurement]:
    """All evaluations in files and folders, in their order, each file once.

    Args:
        paths: files, which must hold evaluations; and folders, in which files ``*.json`` are
            read if they are evaluations of ``revt run``, in the order of their names.

    Raises:
        UserError: a file is none, cannot be read or holds a wrong value; a folder has none.
    """
    found: dict[Path, list[Measurement]] = {}
    for path in paths:
        if not path.is_dir():
            value = _json(path)
            if not (_is_evaluation(value) or _is_evaluate_result(value)):
                raise UserError(f"{path} is not {_WHAT}")
            found[path.resolve()] = _measurements(value, path)
            continue
        inside = {file: value for file, value in _json_files(path) if _is_evaluation(value)}
        if not inside:
            raise UserError(
                f"{path} holds no evaluation written by revt run: pass the files that revt "
                "evaluate --json wrote"
            )
        found.update((file.resolve(), _measurements(value, file)) for file, value in inside.items())
    return [measurement for measurements in found.values() for measurement in measurements]


def measurements_of(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Measurement]:
    """The results of ``revt evaluate --json``, which are grouped by their model's name.

    Args:
        rows: as ``Evaluated.to_json`` gives them.
        path: the file that they come from, for messages.

    Raises:
        UserError: a row lacks a value or has an impossible one.
    """
    grouped: dict[str, dict[str, Any]] = {}
    for row in rows:
        model, protocol = row.get("model"), row.get("protocol")
        # Weights that changed between two evaluations are another network.
        digests = row.get("network_sha256")
        digest = " ".join(map(str, digests)) if isinstance(digests, list) else None
        key = json.dumps([model, protocol, digest], sort_keys=True)
        start = {"model": model, "group": model, "protocol": protocol, "sha256": digest or None}
        grouped.setdefault(key, {**start, "results": []})["results"].append(row)
    return [_checked(value, path) for value in grouped.values()]


def compact(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """What a table needs of evaluations, as JSON values; IoUs are rounded to two digits.

    :func:`read_measurements` reads it, and the table is the same.
    """
    values = [measurement.model_dump(mode="json", by_alias=True) for measurement in measurements]
    for value in values:
        for row in value["results"]:
            row["IoU"] = {
                name: None if iou is None else round(iou, 2) for name, iou in row["IoU"].items()
            }
    return values


def compact_text(measurements: Sequence[Measurement]) -> str:
    """The same as JSON text with a line for each evaluation."""
    lines = [json.dumps(value, ensure_ascii=False) for value in compact(measurements)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _measurements(value: Any, path: Path) -> list[Measurement]:
    values = value if isinstance(value, list) else [value]
    if _is_evaluation(value):
        return [_checked(evaluation, path) for evaluation in values]
    return measurements_of(values, path)


def _checked(value: Mapping[str, Any], path: Path) -> Measurement:
    try:
        return Measurement.model_validate({**value, "path": path})
    except ValidationError as error:
        raise UserError(validation_sentence(Measurement, error, f"{path}")) from error


def _json_files(folder: Path) -> Iterator[tuple[Path, Any]]:
    """The readable JSON files below a folder; those of hidden folders are half-written."""
    for path in sorted(folder.rglob("*.json")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            try:
                yield path, _json(path)
            except UserError:
                continue


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not {_WHAT}") from error


def _is_evaluation(value: Any) -> bool:
    """Whether these are evaluations of some version; other versions are refused later."""
    return _all(value, lambda one: str(one.get("format")).startswith(_FAMILY))


def _is_evaluate_result(value: Any) -> bool:
    return isinstance(value, list) and _all(value, lambda row: {"model", "mIoU"} <= row.keys())


def _all(value: Any, holds: Callable[[Mapping[str, Any]], bool]) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(one, dict) and holds(one) for one in values)
