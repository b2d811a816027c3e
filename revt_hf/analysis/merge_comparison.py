"""A merge beside its members: statistics of BatchNorm, and pixels they disagree on."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset
from transformers import PreTrainedModel

from revt_hf.analysis.blending import DiagnoseOptions, OnImage, ScoringData, about
from revt_hf.config.recipe import Source
from revt_hf.core.errors import UserError
from revt_hf.core.processes import process_state
from revt_hf.data.label_space import IGNORE_INDEX, LabelSpace
from revt_hf.evaluation.evaluate import load_for_evaluation
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.merging.member_states import current_record
from revt_hf.merging.recalibration import spread_images
from revt_hf.merging.statistics import measured_statistics, recalibrate_model
from revt_hf.models.load import load_model
from revt_hf.models.networks import batch_norms
from revt_hf.results.figures import ACCENT, INK, colour, figure, legend_name, short_names
from revt_hf.results.sheets import Panel, contact_sheet

_TITLES = {
    "mean_shift": "shift of the mean, in running standard deviations",
    "log_variance_ratio": "ln(measured variance / running variance)",
}
# (H, W), train IDs; 255 is ignored.
ClassMap = NDArray[np.uint8]
# For two different classes, three, and more.
_HEAT = np.array([[245, 166, 35], [208, 52, 44], [96, 20, 110]], dtype=np.uint8)
_RIGHT, _WRONG, _UNLABELLED = (46, 160, 67), (208, 52, 44), (230, 230, 230)
_DIMMED = 0.45
_COLUMNS = ("image", "ground truth", "members differ", "the merge where they do", "the merge")


def _records(members: Sequence[str], merge: str) -> dict[str, Any]:
    """Path and sha256 of models, as in merge.json."""
    *entries, merged = (current_record(model).to_json() for model in (*members, merge))
    return {"members": entries, "merge": merged}


def diagnose_norm(
    models: Mapping[str, str], sources: Sequence[Source], images: int, options: DiagnoseOptions
) -> dict[str, Any]:
    """Write ``norm.png`` and ``norm.json`` (returned); the merge is also recalibrated."""
    (merge, *members), names = models.values(), short_names(list(models))
    data = options.data(merge, *members)
    training = spread_images(sources, images)
    total = (2 + len(members)) * data.images + len(training)
    with options.progress(total, "norm") as bar:
        shifts = norm_shifts(merge, members, data, training, bar.update)
    result = about(data, _records(members, merge))
    result |= {"recalibrated_on": len(training), "models": shifts}
    draw = partial(_draw_norm, shifts, [names[0], *names], data.label)
    return options.written("norm", result, draw, merge, *members)


def norm_shift(
    model: PreTrainedModel,
    name: str,
    kind: str,
    data: ScoringData,
    on_image: OnImage = lambda: None,
) -> dict[str, Any]:
    """The running statistics of a model, in eval mode, against those of its own features.

    For each channel of each BatchNorm, ``mean_shift`` is (measured - running mean) / running
    standard deviation and ``log_variance_ratio`` ln(measured / running variance); with ``eps``, as
    in the layer.
    """
    layers, rows = batch_norms(model), itertools.chain.from_iterable(data.rows)
    if not layers:
        raise UserError(f"{name} has no BatchNorm, and so no statistics to compare")
    parts: dict[str, list[Any]] = {"mean_shift": [], "log_variance_ratio": []}
    measured = measured_statistics(model, rows, data.protocol, on_image)
    for at, layer in layers.items():
        mean, variance, running_mean, running_variance = (
            statistic.detach().double().cpu().numpy()
            for statistic in (*measured[at], layer.running_mean, layer.running_var)
        )
        parts["mean_shift"].append((mean - running_mean) / np.sqrt(running_variance + layer.eps))
        ratio = (variance + layer.eps) / (running_variance + layer.eps)
        parts["log_variance_ratio"].append(np.log(ratio))
    channels = {field: np.concatenate(values) for field, values in parts.items()}
    shift: dict[str, Any] = {"model": name, "kind": kind}
    for field, values in channels.items():
        shift[f"{field}_rms"] = float(np.sqrt(np.mean(values**2)))
        shift[f"{field}_max"] = float(np.abs(values).max())
    return shift | {field: values.tolist() for field, values in channels.items()}


def norm_shifts(
    merge: str,
    members: Sequence[str],
    data: ScoringData,
    training: Any,
    on_image: OnImage = lambda: None,
) -> list[dict[str, Any]]:
    """Measure a merge, the same recalibrated on ``training``, and its members, one at a time."""
    model = load_model(merge).to(process_state().device)
    shifts = [norm_shift(model, merge, "merge", data, on_image)]
    recalibrate_model(model, training, data.protocol, on_image)
    shifts.append(norm_shift(model, merge, "recalibrated", data, on_image))
    for member in members:
        del model
        model = load_model(member).to(process_state().device)
        shifts.append(norm_shift(model, member, "member", data, on_image))
    return shifts


def _draw_norm(
    shifts: Sequence[Mapping[str, Any]], names: Sequence[str], data: str, path: Path
) -> None:
    """Draw the shifts of means and the ratios of variances over the channels, sorted."""
    members = [shift for shift in shifts if shift["kind"] == "member"]
    with figure(path, 12, 4.8, 1, 2) as (drawing, axes):
        for axis, (field, title) in zip(axes[0], _TITLES.items(), strict=True):
            for shift, name in zip(shifts, names, strict=True):
                kind = shift["kind"]
                ink, width = ACCENT if kind == "merge" else INK, 2.2
                if kind == "member":
                    ink, width = colour(members.index(shift)), 1.2
                label = kind if kind == "recalibrated" else name
                label = legend_name(f"{label} (rms {shift[f'{field}_rms']:.2f})")
                share = np.linspace(0, 100, len(shift[field]))
                axis.plot(share, sorted(shift[field]), color=ink, linewidth=width, label=label)
            axis.axhline(0, color=INK, linewidth=0.6)
            axis.set_ylabel(title)
            axis.set_xlabel("channels, sorted (%)")
            axis.legend(fontsize=8)
        drawing.suptitle(f"Statistics of BatchNorm on {data}")


def diagnose_disagreement(
    members: Mapping[str, str], merge: str, shown: int, options: DiagnoseOptions
) -> dict[str, Any]:
    """Write ``disagreement.png`` and ``disagreement.json`` (returned): where members differ."""
    folders = list(members.values())
    if len(folders) < 2:
        raise UserError("only several members can differ: name at least two")
    data = options.data(*folders, merge)
    with options.progress((len(folders) + 1) * data.images, "disagreement") as bar:
        counts, images, worst = disagreement(folders, merge, data, shown, bar.update)
    result = about(data, _records(folders, merge)) | shares(counts, [*members, merge])
    result["images"] = [{"name": name, "disputed": share * 100} for name, share in images]
    draw = partial(_draw_disagreement, worst, data.space)
    return options.written("disagreement", result, draw, *folders, merge)


def different_classes(maps: Sequence[ClassMap]) -> ClassMap:
    """The number of different classes that the members give each pixel, (H, W)."""
    ordered = np.sort(np.stack(maps), axis=0)
    return (1 + (ordered[1:] != ordered[:-1]).sum(0)).astype(np.uint8)


def votes_for(maps: Sequence[ClassMap], chosen: ClassMap) -> ClassMap:
    """The number of members that give each pixel its class in ``chosen``, (H, W)."""
    return np.asarray(sum((one == chosen).astype(np.uint8) for one in maps), dtype=np.uint8)


def count_pixels(maps: Sequence[ClassMap], merged: ClassMap, label: ClassMap) -> Counter[Any]:
    """Pixels of one image by what the members, the merge and the label give them."""
    different, votes = different_classes(maps), votes_for(maps, merged)
    disputed, known = different > 1, label != IGNORE_INDEX
    majority = votes * 2 > len(maps)
    masks: dict[Any, NDArray[np.bool_]] = {
        "disputed": disputed,
        "undisputed": ~disputed,
        "majority": disputed & majority,
        "minority": disputed & ~majority & (votes > 0),
        "none": disputed & (votes == 0),
        "merge against all": ~disputed & (votes == 0),
        "any right": disputed & known & (votes_for(maps, label) > 0),
    }
    masks |= {count: different == count for count in range(1, len(maps) + 1)}
    for kind in ("disputed", "undisputed"):
        masks[kind, "labelled"] = masks[kind] & known
        for number, one in enumerate((*maps, merged)):
            masks[kind, number] = masks[kind] & known & (one == label)
    return Counter({key: int(mask.sum()) for key, mask in masks.items()})


def shares(counts: Counter[Any], names: Sequence[str]) -> dict[str, Any]:
    """Counts of :func:`count_pixels` in percent (None of no pixels); the merge's name is last."""

    def percent(part: Any, whole: Any) -> float | None:
        return counts[part] / counts[whole] * 100 if counts[whole] else None

    counts = counts + Counter(pixels=counts["disputed"] + counts["undisputed"])
    return {
        "pixels": counts["pixels"],
        "disputed": percent("disputed", "pixels"),
        "by_different_classes": {str(n): percent(n, "pixels") for n in range(1, len(names))},
        "merge_on_disputed": {
            who: percent(who, "disputed") for who in ("majority", "minority", "none")
        },
        "merge_against_all_on_undisputed": percent("merge against all", "undisputed"),
        "accuracy": {
            kind: {"labelled_pixels": counts[kind, "labelled"]}
            | {name: percent((kind, n), (kind, "labelled")) for n, name in enumerate(names)}
            for kind in ("disputed", "undisputed")
        },
        "any_member_right_on_disputed": percent("any right", ("disputed", "labelled")),
    }


@dataclass(frozen=True, eq=False)
class DisputedImage:
    """An image, its share of disputed pixels, and what the models predict."""

    name: str
    disputed: float
    image: NDArray[np.uint8]
    label: ClassMap
    different: ClassMap
    merged: ClassMap


def disagreement(
    members: Sequence[str],
    merge: str,
    data: ScoringData,
    shown: int = 4,
    on_image: OnImage = lambda: None,
) -> tuple[Counter[Any], list[tuple[str, float]], list[DisputedImage]]:
    """Counts of all images, name and disputed share of each, and the ``shown`` most disputed."""
    rows: Any = ConcatDataset(list(data.rows))
    with tempfile.TemporaryDirectory(prefix="revt-") as folder:
        files = [
            [Path(folder) / f"{model}-{image}.png" for image in range(len(rows))]
            for model in range(len(members) + 1)
        ]
        for source, paths in zip((*members, merge), files, strict=True):
            segmenter = model_segmenter(load_for_evaluation(source, data.space))
            data.check(segmenter.models[0])
            for image, path in enumerate(paths):
                classes = segmenter.class_map(rows[image]["image"], data.protocol)
                if not cv2.imwrite(str(path), classes):
                    raise UserError(f"cannot write {path}: set TMPDIR to a folder with room")
                on_image()

        def read(image: int) -> list[ClassMap]:
            paths = (str(of_model[image]) for of_model in files)
            return [np.asarray(cv2.imread(p, cv2.IMREAD_UNCHANGED), np.uint8) for p in paths]

        counts: Counter[Any] = Counter()
        disputed = []
        for image in range(len(rows)):
            row, (*maps, merged) = rows[image], read(image)
            pixels = count_pixels(maps, merged, row["label"])
            counts.update(pixels)
            disputed.append((str(row["name"]), pixels["disputed"] / merged.size))
        worst = []
        for image in sorted(range(len(rows)), key=lambda image: -disputed[image][1])[:shown]:
            row, (*maps, merged) = rows[image], read(image)
            found = (row["image"], row["label"], different_classes(maps), merged)
            worst.append(DisputedImage(*disputed[image], *found))
    return counts, disputed, worst


def _draw_disagreement(images: Sequence[DisputedImage], space: LabelSpace, path: Path) -> None:
    """Draw image, ground truth, disputed pixels, the merge there, and the map of the merge."""
    rows = []
    for one in images:
        dimmed = np.repeat(one.image.mean(axis=2, keepdims=True) * _DIMMED, 3, axis=2)
        heat, there = dimmed.astype(np.uint8), dimmed.astype(np.uint8)
        disputed = one.different > 1
        heat[disputed] = _HEAT[np.minimum(one.different[disputed], 4) - 2]
        there[disputed & (one.merged == one.label)] = _RIGHT
        there[disputed & (one.merged != one.label)] = _WRONG
        there[disputed & (one.label == IGNORE_INDEX)] = _UNLABELLED
        rows.append(
            [
                Panel(one.name, one.image),
                Panel(_COLUMNS[1], space.colourise(one.label)),
                Panel(f"{one.disputed * 100:.1f} % of pixels; 2 classes orange, 3 red", heat),
                Panel("right green, wrong red, no label white", there),
                Panel(_COLUMNS[4], space.colourise(one.merged)),
            ]
        )
    legend = space.legend([found for one in images for found in (one.merged, one.label)])
    contact_sheet(rows, _COLUMNS, [""] * len(rows), legend, path, 300)
