"""Measured results of one model, among those of a result file."""

from collections.abc import Sequence
from pathlib import Path

from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Result
from revt_hf.hub.places import without_places
from revt_hf.models.load import load_model, network_sha256


def results_of(folder: Path, results: Sequence[Result], also: Sequence[str] = ()) -> list[Result]:
    """The results of one model among those of several.

    Args:
        folder: the model's; a result is its own if its ``model`` is this folder, or where none is,
            if it was measured on these weights.
        results: of :func:`revt_hf.evaluation.result.read_results`.
        also: Hub ids that a result may call the model by.

    Raises:
        UserError: a split is scored twice; a result of the model was measured on other weights
            than the folder's, or does not say on which.
    """
    own = [(number, one) for number, one in enumerate(results) if _is(one.model, folder, also)]
    digest = network_sha256(load_model(folder)) if own or results else None
    own = own or [(n, one) for n, one in enumerate(results) if one.network_sha256 == (digest,)]
    labels: set[str] = set()
    for number, result in own:
        if result.network_sha256 != (digest,):
            known = f"was measured on other weights, classes or normalisation than {folder} has"
            unknown = "does not say which weights it was measured on"
            raise UserError(
                f"results[{number}] ({result.model}) "
                f"{known if result.network_sha256 else unknown}: evaluate {folder} again"
            )
        for score in result.scores:
            if score.label in labels:
                raise UserError(f"the results score {folder} twice on {score.label}")
            labels.add(score.label)
    return [result for _, result in own]


def published(result: Result, name: str) -> Result:
    """A result under the model's published name, without paths of this machine."""
    values = without_places(result.model_dump(mode="json"))
    return Result.model_validate({**values, "model": name})


def _is(model: str, folder: Path, also: Sequence[str]) -> bool:
    if Path(model).exists():
        return Path(model).resolve() == folder.resolve()
    return model.partition("@")[0] in also
