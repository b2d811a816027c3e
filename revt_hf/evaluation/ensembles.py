"""Ensembles: what ReVT is compared with, at the cost of all members in every prediction.

With several views (scales, flip) members are combined within each view. Pixels come normalised for
the first member; a member with another normalisation gets them converted.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import SegformerForSemanticSegmentation

from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.predictor import Network, Segmenter, encoder_features, model_segmenter

Models = Sequence[SegformerForSemanticSegmentation]

COMBINATIONS = ("logits", "product", "probabilities", "features")


def ensemble_segmenter(models: Models, combine: str, head: int = 1) -> Segmenter:
    """At least two models in eval mode as one segmenter, combined in one of ``COMBINATIONS``.

    ``probabilities`` is the original's ensemble: the mean of softmax at the image's size;
    ``features`` decodes the mean of each encoder stage with one head, counted from 1.
    """
    if combine not in COMBINATIONS:
        raise UserError(f"unknown ensemble '{combine}': use one of {', '.join(COMBINATIONS)}")
    if len(models) < 2:
        raise UserError(f"an ensemble needs at least two models, not {len(models)}")
    members = tuple(models)
    if combine == "probabilities":
        networks = tuple(_member_network(model, models[0]) for model in models)
        return Segmenter(networks, members, members, combine)
    if combine != "features":
        return Segmenter((_mean_of_logits(models),), members, members, combine)
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
    return Segmenter((_mean_of_features(models, head),), modules, members, combine, head)


def ensemble_name(members: int, combine: str, head: int) -> str:
    """The name of an ensemble in results, such as ``ensemble of 3 (features, head 1)``."""
    which = combine if combine != "features" else f"features, head {head}"
    return f"ensemble of {members} ({which})"


def _mean_of_logits(models: Models) -> Network:
    """A network that returns the mean of its members' logits.

    It is also the *product of probabilities*: with l_mc the logits of member m,
    log(prod_m softmax(l_m)_c) = sum_m l_mc - sum_m logsumexp(l_m), whose last term is the same
    for all classes. The classes rank as in the sum of logits, hence as in their mean, also after a
    bilinear resize, which is linear. With several views the normalised geometric mean of the
    members' probabilities is averaged over them.
    """

    def network(pixels: torch.Tensor) -> torch.Tensor:
        total = models[0](pixel_values=pixels).logits
        for model, own in _own_pixels(models, pixels):
            total = total + model(pixel_values=own).logits
        return total / len(models)

    return network


def _mean_of_features(models: Models, head: int) -> Network:
    def network(pixels: torch.Tensor) -> torch.Tensor:
        stages = list(encoder_features(models[0], pixels))
        for model, own in _own_pixels(models, pixels):
            features = encoder_features(model, own)
            stages = [a + b for a, b in zip(stages, features, strict=True)]
        means = tuple(stage / len(models) for stage in stages)
        logits: torch.Tensor = models[head - 1].decode_head(means)
        return logits

    return network


def _member_network(
    model: SegformerForSemanticSegmentation, first: SegformerForSemanticSegmentation
) -> Network:
    network = model_segmenter(model).networks[0]
    return lambda pixels: network(_converted(model, first, pixels))


def _own_pixels(
    models: Models, pixels: torch.Tensor
) -> Iterator[tuple[SegformerForSemanticSegmentation, torch.Tensor]]:
    """All members but the first, each with the pixels as it normalises them."""
    for model in models[1:]:
        yield model, _converted(model, models[0], pixels)


def _converted(
    model: SegformerForSemanticSegmentation,
    first: SegformerForSemanticSegmentation,
    pixels: torch.Tensor,
) -> torch.Tensor:
    """Pixels (N, 3, H, W) that are normalised for the first member, normalised for another."""
    given, wanted = normalisation_of(first), normalisation_of(model)
    if given == wanted:
        return pixels
    mean, std, own_mean, own_std = (
        pixels.new_tensor(channels)[:, None, None]
        for channels in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return (pixels * std + mean - own_mean) / own_std
