"""Measured results of one model, as ``revt evaluate --json`` writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from revt_hf.config.sections import validation_sentence
from revt_hf.core.errors import UserError
from revt_hf.hub.places import without_places
from revt_hf.models.load import load_model, network_sha256

_ROWS = "a list of results as 'revt evaluate --json' writes it"


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    network_sha256: tuple[str, ...] = ()
    domain: str
    config: str | None
    split: str
    label: str
    is_source: bool
    miou: Annotated[float, Field(alias="mIoU", ge=0, le=100, allow_inf_nan=False)]
    images: Annotated[int, Field(gt=0)]
    label_encoding: str | None
    protocol: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One model's score on one split.

    Attributes:
        domain: its registered name.
        config: of the domain.
        split: of the domain.
        label: a short name of all three.
        is_source: whether the model was trained on this domain's other images.
        miou: in percent.
        images: images that were scored.
        label_encoding: the table that labels were read with.
        protocol: how images reached the network.
        published: the whole row, without places of this machine.
    """

    domain: str
    config: str | None
    split: str
    label: str
    is_source: bool
    miou: float
    images: int
    label_encoding: str | None
    protocol: Mapping[str, Any]
    published: Mapping[str, Any]


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a result file.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not {_ROWS}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is not {_ROWS}")
    return rows


def results_of(
    folder: Path, rows: Sequence[Mapping[str, Any]], published_as: str, also: Sequence[str] = ()
) -> tuple[Measured, ...]:
    """The results of one model among those of several.

    Args:
        folder: the model's; a row is its own if its ``model`` is this folder.
        rows: as :func:`read_results` gives them.
        published_as: what the model is called in the published rows.
        also: Hub ids that a row may call the model by.

    Raises:
        UserError: a row lacks a value or has an impossible one; a split is scored twice; a row of
            the model was measured on another network than the folder's, or does not say on which.
    """
    found: dict[str, Measured] = {}
    digest = None
    for number, row in enumerate(rows):
        checked = _checked(row, number)
        if not _is(checked.model, folder, also):
            continue
        digest = digest or network_sha256(load_model(folder))
        if checked.network_sha256 != (digest,):
            known = f"was measured on other weights, classes or normalisation than {folder} has"
            unknown = "does not say which weights it was measured on"
            raise UserError(
                f"results[{number}] ({checked.model} on {checked.label}) "
                f"{known if checked.network_sha256 else unknown}: evaluate {folder} again"
            )
        if checked.label in found:
            raise UserError(f"the results score {folder} twice on {checked.label}")
        found[checked.label] = Measured(
            *(checked.domain, checked.config, checked.split, checked.label, checked.is_source),
            *(checked.miou, checked.images, checked.label_encoding, checked.protocol),
            published={**without_places(row), "model": published_as},
        )
    return tuple(found.values())


def _checked(row: Mapping[str, Any], number: int) -> _Row:
    try:
        return _Row.model_validate(row)
    except ValidationError as error:
        sentence = validation_sentence(_Row, error, f"results[{number}]")
        raise UserError(sentence) from error


def _is(model: str, folder: Path, also: Sequence[str]) -> bool:
    if Path(model).exists():
        return Path(model).resolve() == folder.resolve()
    return model.partition("@")[0] in also


def models_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models that a result file names, each once."""
    return list(dict.fromkeys(str(row.get("model")) for row in rows))


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """A protocol in words, such as ``1024x512, resize: keep ratio, flip: no``."""
    values = {key: value for key, value in protocol.items() if value is not None}
    max_size = values.pop("max_size", None)
    if max_size is None:
        values.pop("resize", None)
    if list(values.get("scales", [])) == [1]:
        del values["scales"]
    parts = ["native size" if max_size is None else "x".join(map(str, max_size))]
    return ", ".join([*parts, *(f"{key}: {_word(value)}" for key, value in values.items())])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
