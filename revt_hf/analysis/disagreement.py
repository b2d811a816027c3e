"""Pixels to which members give different classes, and what their merge predicts there."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from revt_hf.analysis.blending import OnImage, ScoringData
from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, colourise
from revt_hf.evaluation.evaluate import load_for_evaluation
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.results.sheets import Panel, contact_sheet

# (H, W), train IDs; 255 is ignored.
ClassMap = NDArray[np.uint8]
# For two different classes, three, and more.
_HEAT = np.array([[245, 166, 35], [208, 52, 44], [96, 20, 110]], dtype=np.uint8)
_RIGHT, _WRONG, _UNLABELLED = (46, 160, 67), (208, 52, 44), (230, 230, 230)
_DIMMED = 0.45
_COLUMNS = ("image", "ground truth", "members differ", "the merge where they do", "the merge")


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
        "by_different_classes": {
            str(count): percent(count, "pixels") for count in range(1, len(names))
        },
        "merge_on_disputed": {
            who: percent(who, "disputed") for who in ("majority", "minority", "none")
        },
        "merge_against_all_on_undisputed": percent("merge against all", "undisputed"),
        "accuracy": {
            kind: {
                "labelled_pixels": counts[kind, "labelled"],
                **{
                    name: percent((kind, number), (kind, "labelled"))
                    for number, name in enumerate(names)
                },
            }
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
    """Predict with each member, then with the merge, one model in memory at a time.

    Returns the counts of all images, name and disputed share of each, and the most disputed.
    """
    rows: Any = ConcatDataset(list(data.rows))
    with tempfile.TemporaryDirectory(prefix="revt-") as folder:
        files = [
            [Path(folder) / f"{model}-{image}.png" for image in range(len(rows))]
            for model in range(len(members) + 1)
        ]
        for source, paths in zip((*members, merge), files, strict=True):
            segmenter = model_segmenter(load_for_evaluation(source))
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


def draw_disagreement(images: Sequence[DisputedImage], path: Path) -> None:
    """Draw image, ground truth, disputed pixels, the merge there, and the map of the merge.

    Disputed pixels are orange for two different classes, red for three, violet for more. The
    merge is green there where it is right, red where it is wrong, white without a label.
    """
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
                Panel(_COLUMNS[1], colourise(one.label)),
                Panel(f"{one.disputed * 100:.1f} % of pixels; 2 classes orange, 3 red", heat),
                Panel("right green, wrong red, no label white", there),
                Panel(_COLUMNS[4], colourise(one.merged)),
            ]
        )
    present = np.unique(np.concatenate([np.unique([one.merged, one.label]) for one in images]))
    legend = [CLASSES[value] for value in present if value != IGNORE_INDEX]
    contact_sheet(rows, _COLUMNS, [""] * len(rows), legend, path, 300)
