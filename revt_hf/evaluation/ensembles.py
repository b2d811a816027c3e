"""Ensembles: several models in eval mode as one segmenter."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch.nn import functional

from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.class_maps import Size
from revt_hf.evaluation.predictor import (
    Model,
    Models,
    Network,
    Segmenter,
    encoder_features,
    own_head,
)
from revt_hf.models.networks import family_of_model, logits_of
from revt_hf.models.onnx_file import OnnxNetwork

COMBINATIONS = ("logits", "product", "probabilities", "features")


def ensemble_segmenter(models: Models, combine: str, head: int = 1) -> Segmenter:
    """At least two models in eval mode as one segmenter, combined in one of ``COMBINATIONS``.

    ``probabilities`` is the original's ensemble: the mean of softmax at the image's size;
    ``features`` decodes the mean of each encoder stage with one head, counted from 1. With several
    views members are combined within each view.
    """
    if combine not in COMBINATIONS:
        raise UserError(f"unknown ensemble '{combine}': use one of {', '.join(COMBINATIONS)}")
    if len(models) < 2:
        raise UserError(f"an ensemble needs at least two models, not {len(models)}")
    _check_outputs(models, combine)
    members = tuple(models)
    networks = tuple(_member_network(model, models[0]) for model in models)
    if combine == "probabilities":
        return Segmenter(networks, members, members, combine)
    if combine != "features":
        return Segmenter((_mean_of_logits(networks),), members, members, combine)
    if not 1 <= head <= len(models):
        raise UserError(f"head {head}: the ensemble has members 1 to {len(models)}")
    for number, model in enumerate(models, 1):
        if family_of_model(model) is not SEGFORMER:
            raise UserError(
                f"an ensemble of features needs SegFormers: member {number} is a "
                f"{family_of_model(model).title}"
            )
        if model.config.hidden_sizes != models[0].config.hidden_sizes:
            raise UserError(
                f"an ensemble of features needs encoders of one width: member {number} has "
                f"{list(model.config.hidden_sizes)}, member 1 has "
                f"{list(models[0].config.hidden_sizes)}"
            )
    modules = (*(model.base_model for model in models), own_head(models[head - 1]))
    return Segmenter((_mean_of_features(models, head),), modules, members, combine, head)


def _check_outputs(models: Models, combine: str) -> None:
    """Refuse scores of masks beside logits, or where logits are needed."""
    scores, logits = list[int](), list[int]()
    for number, model in enumerate(models, 1):
        if isinstance(model, OnnxNetwork) and model.ends_in_classes:
            raise UserError(
                f"member {number} ({model.label}) makes class maps, which have no mean: export it "
                "with --result logits"
            )
        (scores if family_of_model(model).masks else logits).append(number)
    if scores and logits:
        title = family_of_model(models[scores[0] - 1]).title
        raise UserError(
            f"member {scores[0]} ({title}) has scores of masks and member {logits[0]} has logits, "
            "which have no mean: put models of one kind into an ensemble"
        )
    if scores and combine != "logits":
        raise UserError(f"an ensemble of {combine} needs logits, and masks have scores: use logits")


def ensemble_name(members: int, combine: str, head: int) -> str:
    which = combine if combine != "features" else f"features, head {head}"
    return f"ensemble of {members} ({which})"


def _mean_of_logits(networks: Sequence[Network]) -> Network:
    """A network that returns the mean of several networks' logits.

    It is also the *product of probabilities*: with l_mc the logits of member m,
    log(prod_m softmax(l_m)_c) = sum_m l_mc - sum_m logsumexp(l_m), whose last term is the same
    for all classes. The classes rank as in the sum of logits, hence as in their mean, also after a
    bilinear resize, which is linear. With several views the normalised geometric mean of the
    members' probabilities is averaged over them.

    Logits of different sizes are resized to the largest one's, bilinear.
    """

    def network(pixels: torch.Tensor) -> torch.Tensor:
        sums: dict[Size, torch.Tensor] = {}
        for one in networks:
            logits = one(pixels)
            size = logits.shape[2], logits.shape[3]
            sums[size] = sums[size] + logits if size in sums else logits
        largest = max(sums, key=math.prod)
        resized = (
            total if size == largest else functional.interpolate(total, largest, mode="bilinear")
            for size, total in sums.items()
        )
        return reduce(torch.add, resized) / len(networks)

    return network


def _mean_of_features(models: Models, head: int) -> Network:
    def network(pixels: torch.Tensor) -> torch.Tensor:
        features = (encoder_features(one, _converted(one, models[0], pixels)) for one in models)
        # One member's features at a time beside their sum.
        sums = reduce(lambda total, stages: tuple(map(torch.add, total, stages)), features)
        logits: torch.Tensor = own_head(models[head - 1])(tuple(s / len(models) for s in sums))
        return logits

    return network


def _member_network(model: Model, first: Model) -> Network:
    return lambda pixels: logits_of(model, _converted(model, first, pixels))


def _converted(model: Model, first: Model, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (N, 3, H, W) that are normalised for the first member, normalised for another."""
    given, wanted = normalisation_of(first), normalisation_of(model)
    if given == wanted:
        return pixels
    mean, std, own_mean, own_std = (
        pixels.new_tensor(channels)[:, None, None]
        for channels in (given.mean, given.std, wanted.mean, wanted.std)
    )
    flips = given.do_flip_channel_order, wanted.do_flip_channel_order
    rgb = (pixels.flip(1) if flips[0] else pixels) * std + mean
    converted = (rgb - own_mean) / own_std
    return converted.flip(1) if flips[1] else converted
