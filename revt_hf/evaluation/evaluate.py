"""Score models on domains: the one loop, in which every image is decoded once for all models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import check_once
from revt_hf.core.processes import Processes, failing_together, local_main_first, process_state
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.domains import in_space, label_encoding
from revt_hf.data.label_space import IGNORE_INDEX, LabelSpace
from revt_hf.data.reading import resize_label_to_fit
from revt_hf.evaluation.confidence import check_probabilities
from revt_hf.evaluation.cost import check_countable, cost_of
from revt_hf.evaluation.ensembles import ensemble_name, ensemble_segmenter
from revt_hf.evaluation.loading import (
    Row,
    check_sizes,
    image_batches,
    in_classes_of,
    load_labelled,
)
from revt_hf.evaluation.metric import Sums, confusion_matrix, scores_from, summed
from revt_hf.evaluation.predictor import OnLogits, Segmenter, model_segmenter
from revt_hf.evaluation.result import DomainScore, Result, SplitSpec, check_labels, splits_of
from revt_hf.models.load import for_inference_, label_space, load_model
from revt_hf.models.networks import input_limits
from revt_hf.models.onnx_file import OnnxNetwork, is_onnx
from revt_hf.models.recorded import recorded_protocol

Scorable: TypeAlias = PreTrainedModel | Segmenter | str | Path
# Logits (1, C, h, w) and labels (1, h, w) to the mean loss over labelled pixels.
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class EvaluateOptions:
    """How models are scored.

    Attributes:
        ensembles: also score all models together, combined in these ways; see
            :func:`revt_hf.evaluation.predictor.ensemble_segmenter`.
        head: whose decode head an ensemble of features uses, counted from 1.
        cost: also measure the cost of an image of the first split's size.
        calibration: also score the confidence of pixels.
        batch_size: images that go through a network together, where their input sizes agree.
        workers: processes that decode images while the networks run; 0 decodes in between.
        quiet: hide the progress bar.
        mapping: which of the models' classes count as which of the domains', if they differ.
    """

    ensembles: tuple[str, ...] = ()
    head: int = 1
    cost: bool = False
    batch_size: int = 1
    workers: int = 0
    quiet: bool = False
    mapping: ClassMapping | None = None
    calibration: bool = False


def evaluate(
    models: Mapping[str, Scorable] | Sequence[str | Path],
    splits: Recipe | Sequence[SplitSpec | tuple[SplitSpec, Any]],
    protocol: Protocol | None = None,
    options: EvaluateOptions | None = None,
    on_image: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Score models on splits.

    With several processes (``accelerate launch``, ``torchrun``) each takes every n-th image, and
    the confusion matrices are summed: every process returns the scores of all images, exactly
    those of a single process. Costs are measured on the main process only.

    Args:
        models: folders or Hub IDs, which are loaded onto the accelerator if there is one; or a
            mapping from names in results to these, or to networks and segmenters in eval mode.
        splits: the source-val and target splits of a recipe, or a list of splits; a split may come
            with its images: rows with ``image`` and ``label`` as ``load_domain`` returns them.
        protocol: how images reach the networks; None for the one that the folders record.
        options: see :class:`EvaluateOptions`.
        on_image: called after each image of this process.

    Returns:
        One result for each model and ensemble, in order.

    Raises:
        UserError: a model, a domain, an ensemble or an image cannot be used; with several
            processes, only the main one raises it and the others exit.
    """
    options = options or EvaluateOptions()
    if isinstance(models, str) or not models:
        raise UserError("pass a list of models, or a mapping from names to models")
    if not isinstance(models, Mapping):
        check_once(models, "list it once, or pass a mapping with two names")
        models = {str(model): model for model in models}
    if protocol is None:
        folders = [model for model in models.values() if isinstance(model, str | Path)]
        if len(folders) < len(models):
            raise UserError("pass a protocol: models that are loaded already record none")
        protocol = recorded_protocol(folders)
    pairs = [
        (split, None) if isinstance(split, SplitSpec) else split
        for split in (splits_of(splits) if isinstance(splits, Recipe) else splits)
    ]
    processes = process_state()
    with failing_together(processes):
        check_labels([split for split, _ in pairs])
        own = [split for split, given in pairs if given is None or options.mapping is not None]
        segmenters = in_classes_of(own, _segmenters(models, options), options.mapping)
        if options.calibration:
            check_probabilities(segmenters)
        if options.cost:
            check_countable(segmenters)
        space = next(iter(segmenters.values())).space
    rows = local_main_first(
        processes, lambda: [load_labelled(s.spec, s.split) if r is None else r for s, r in pairs]
    )
    with failing_together(processes):
        loaded = [
            (split, in_space(images, space, split.label))
            for (split, _), images in zip(pairs, rows, strict=True)
        ]
        limits = input_limits(model for one in segmenters.values() for model in one.models)
        for split, images in loaded:
            check_sizes(images, split.label, protocol, limits)
    scores = _scores(segmenters, loaded, protocol, options, on_image)
    costs = {}
    if options.cost and processes.is_main_process:
        height, width = loaded[0][1][0]["image"].shape[:2]
        for name, segmenter in tqdm(segmenters.items(), desc="cost", disable=options.quiet):
            costs[name] = cost_of(segmenter, (height, width), protocol)
    return [
        Result(
            model=name,
            network_sha256=segmenter.network_sha256,
            ensemble=segmenter.ensemble,
            protocol=protocol,
            mapping=segmenter.mapping,
            scores=tuple(scores[name]),
            cost=costs.get(name),
        )
        for name, segmenter in segmenters.items()
    ]


def _segmenters(models: Mapping[str, Scorable], options: EvaluateOptions) -> dict[str, Segmenter]:
    segmenters = load_segmenters(models)
    members = [model for one in segmenters.values() for model in one.models]
    for combine in dict.fromkeys(options.ensembles):
        ensemble = ensemble_segmenter(members, combine, options.head)
        segmenters[ensemble_name(len(members), combine, options.head)] = ensemble
    return segmenters


def load_segmenters(models: Mapping[str, Scorable]) -> dict[str, Segmenter]:
    """Models that predict the same classes, all in the order of the first one's."""
    segmenters: dict[str, Segmenter] = {}
    space = None
    for name, model in models.items():
        segmenters[name] = as_segmenter(model, space)
        found = {label_space(one) for one in segmenters[name].models}
        space = space or next(iter(found))
        if found != {space}:
            raise UserError(f"{name} predicts other classes than {next(iter(models))}")
    return segmenters


def as_segmenter(model: Scorable, space: LabelSpace | None = None) -> Segmenter:
    if isinstance(model, str | Path):
        model = load_for_evaluation(model, space)
    return model if isinstance(model, Segmenter) else model_segmenter(model)


def load_for_evaluation(source: str | Path, space: LabelSpace | None = None) -> PreTrainedModel:
    """A model on the accelerator's device, in eval mode and made faster; not for training."""
    device = process_state().device
    if is_onnx(source):
        return OnnxNetwork(source, device)  # type: ignore[return-value]  # called like one
    return for_inference_(load_model(source, space).to(device))


def _scores(
    segmenters: Mapping[str, Segmenter],
    loaded: Sequence[tuple[SplitSpec, Any]],
    protocol: Protocol,
    options: EvaluateOptions,
    on_image: Callable[[], object],
) -> dict[str, list[DomainScore]]:
    processes = process_state()
    shares = [own_share(images, processes) for _, images in loaded]
    scores: dict[str, list[DomainScore]] = {name: [] for name in segmenters}
    quiet = options.quiet or not processes.is_main_process
    with tqdm(total=sum(map(len, shares)), unit="image", desc="evaluate", disable=quiet) as bar:

        def counted() -> None:
            bar.update()
            on_image()

        for (split, images), share in zip(loaded, shares, strict=True):
            with failing_together(processes):
                sums = score_images(
                    list(segmenters.values()),
                    images,
                    protocol,
                    indices=share,
                    batch_size=options.batch_size,
                    workers=options.workers,
                    on_image=counted,
                    calibration=options.calibration,
                )
            for (name, segmenter), (one,) in zip(segmenters.items(), sums, strict=True):
                total = summed(one, processes)
                scores[name].append(
                    DomainScore(
                        label=split.label,
                        **split.spec.model_dump(include={"domain", "config", "data_dir"}),
                        split=split.split,
                        is_source=split.is_source,
                        images=len(images),
                        label_encoding=label_encoding(images),
                        # First: without a labelled pixel this says so.
                        **scores_from(total.matrix, segmenter.space).model_dump(),
                        calibration=total.calibration,
                    )
                )
    return scores


def own_share(images: Any, processes: Processes) -> range:
    return range(processes.process_index, len(images), processes.num_processes)


def score_images(
    segmenters: Sequence[Segmenter],
    images: Any,
    protocol: Protocol,
    indices: Sequence[int] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    on_image: Callable[[], object] = lambda: None,
    loss: Loss | None = None,
    calibration: bool = False,
) -> list[list[Sums]]:
    """Sum confusion matrices, losses and confidence of each segmenter's outputs over images."""
    for one in segmenters:
        images = in_space(images, one.space, "the domain")
    sums = [
        [Sums.of(len(one.space), one.mapping is not None, calibration) for _ in range(one.outputs)]
        for one in segmenters
    ]
    chosen = range(len(images)) if indices is None else indices
    for rows in image_batches(images, chosen, protocol, batch_size, workers):
        batch = [row["image"] for row in rows]
        for segmenter, totals in zip(segmenters, sums, strict=True):
            on_logits = None if loss is None else _loss_adder(loss, rows, protocol, totals)
            outputs = segmenter.probabilities(batch, protocol, on_logits)
            for total, found in zip(totals, outputs, strict=True):
                for row, mean in zip(rows, found, strict=True):
                    label, predicted = row["label"], segmenter.class_map_of(mean)
                    total.matrix += confusion_matrix(label, predicted, *total.matrix.shape)
                    if total.confidence is not None:
                        table, strips = segmenter.table, mean.strips()
                        total.confidence.add(label, predicted, strips, len(total.matrix), table)
        for _ in rows:
            on_image()
    return sums


def _loss_adder(
    loss: Loss, rows: Sequence[Row], protocol: Protocol, totals: Sequence[Sums]
) -> OnLogits:
    """The loss at the network's input size, as in training; of the scale nearest to 1."""
    for_loss = min(protocol.scales, key=lambda scale: abs(scale - 1))

    def add(logits: torch.Tensor, size: tuple[int, int], scale: float, flipped: bool) -> None:
        if scale != for_loss or flipped:
            return
        for row, one in zip(rows, logits, strict=True):
            resized = resize_label_to_fit(row["label"], size, (size[1], size[0]))
            pixels = int((resized != IGNORE_INDEX).sum())
            if not pixels:
                continue
            labels = torch.from_numpy(resized.astype(np.int64))[None].to(one.device)
            for part, total in zip(one.chunk(len(totals)), totals, strict=True):
                # Summed over pixels, so that images count by their labelled pixels.
                total.loss += float(loss(part[None], labels)) * pixels
                total.pixels += pixels

    return add
