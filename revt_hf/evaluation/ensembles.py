"""Ensembles: what ReVT is compared with, at the cost of all members in every prediction.

With several views (scales, flip) members are combined within each view. Pixels come normalised for
the first member; a member with another normalisation gets them converted.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import SegformerForSemanticSegmentation

from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.predictor import Network, Segmenter, encoder_features, model_segmenter

Models = Sequence[SegformerForSemanticSegmentation]


def mean_of_logits(models: Models) -> Network:
    """A network that returns the mean of its members' logits.

    It is also the *product of probabilities*: with l_mc the logits of member m,
    log(prod_m softmax(l_m)_c) = sum_m l_mc - sum_m logsumexp(l_m), whose last term is the same
    for all classes. The classes rank as in the sum of logits, hence as in their mean, also after a
    bilinear resize, which is linear. With several views the normalised geometric mean of the
    members' probabilities is averaged over them.
    """

    def network(pixels: torch.Tensor) -> torch.Tensor:
        total = models[0](pixel_values=pixels).logits
        for model in models[1:]:
            total = total + model(pixel_values=_converted(model, models[0], pixels)).logits
        return total / len(models)

    return network


def mean_of_features(models: Models, head: int) -> Network:
    """A network that decodes the mean of its members' encoder features with one head.

    Args:
        models: of one architecture.
        head: whose decode head, counted from 1.
    """

    def network(pixels: torch.Tensor) -> torch.Tensor:
        stages = list(encoder_features(models[0], pixels))
        for model in models[1:]:
            own = encoder_features(model, _converted(model, models[0], pixels))
            stages = [a + b for a, b in zip(stages, own, strict=True)]
        means = tuple(stage / len(models) for stage in stages)
        logits: torch.Tensor = models[head - 1].decode_head(means)
        return logits

    return network


def _converted(
    model: SegformerForSemanticSegmentation,
    first: SegformerForSemanticSegmentation,
    pixels: torch.Tensor,
) -> torch.Tensor:
    """Pixels (N, 3, H, W) that are normalised for the first member, normalised for a member."""
    given, wanted = normalisation_of(first), normalisation_of(model)
    if given == wanted:
        return pixels
    mean, std, own_mean, own_std = (
        pixels.new_tensor(channels)[:, None, None]
        for channels in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return (pixels * std + mean - own_mean) / own_std


def _logits(models: Models, head: int) -> Segmenter:  # noqa: ARG001
    return Segmenter((mean_of_logits(models),), tuple(models), tuple(models))


def _probabilities(models: Models, head: int) -> Segmenter:  # noqa: ARG001
    def single(model: SegformerForSemanticSegmentation) -> Network:
        network = model_segmenter(model).networks[0]
        return lambda pixels: network(_converted(model, models[0], pixels))

    return Segmenter(tuple(map(single, models)), tuple(models), tuple(models))


def _encoder_features(models: Models, head: int) -> Segmenter:
    if not 1 <= head <= len(models):
        raise UserError(f"head {head}: the ensemble has members 1 to {len(models)}")
    for number, model in enumerate(models, 1):
        if model.config.hidden_sizes != models[0].config.hidden_sizes:
            raise UserError(
                f"an ensemble of features needs encoders of one width: member {number} has "
                f"{list(model.config.hidden_sizes)}, member 1 has "
                f"{list(models[0].config.hidden_sizes)}"
            )
    modules = (*(model.segformer for model in models), models[head - 1].decode_head)
    return Segmenter((mean_of_features(models, head),), modules, tuple(models), head=head)


_MAKERS: dict[str, Callable[[Models, int], Segmenter]] = {
    "logits": _logits,
    "product": _logits,
    "probabilities": _probabilities,
    "features": _encoder_features,
}
COMBINATIONS = tuple(_MAKERS)


def ensemble_segmenter(models: Models, combine: str, head: int = 1) -> Segmenter:
    """Several models as one segmenter.

    Args:
        models: at least two, in eval mode.
        combine: ``logits`` (their mean), ``product`` (of probabilities; see
            :func:`mean_of_logits`), ``probabilities`` (the mean of softmax at the image's size,
            the original's ensemble) or ``features`` (the mean of each encoder stage, decoded by
            one head).
        head: for ``features``, whose decode head, counted from 1.

    Raises:
        UserError: fewer than two models, an unknown way to combine them, or encoders or a head
            that do not fit.
    """
    if combine not in _MAKERS:
        raise UserError(f"unknown ensemble '{combine}': use one of {', '.join(COMBINATIONS)}")
    if len(models) < 2:
        raise UserError(f"an ensemble needs at least two models, not {len(models)}")
    return replace(_MAKERS[combine](models, head), combine=combine)


def ensemble_name(members: int, combine: str, head: int) -> str:
    """The name of an ensemble in results, such as ``ensemble of 3 (features, head 1)``."""
    which = combine if combine != "features" else f"features, head {head}"
    return f"ensemble of {members} ({which})"
