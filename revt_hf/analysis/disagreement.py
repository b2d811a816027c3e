"""Pixels to which members give different classes, and what their merge predicts there."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from revt_hf.analysis.blending import ScoringData
from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, colourise
from revt_hf.evaluation.evaluate import load_for_evaluation
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.results.sheets import Panel, contact_sheet

ClassMap = NDArray[np.uint8]
# For two different classes, three, and more.
_HEAT = np.array([[245, 166, 35], [208, 52, 44], [96, 20, 110]], dtype=np.uint8)
_RIGHT, _WRONG, _UNLABELLED = (46, 160, 67), (208, 52, 44), (230, 230, 230)
_DIMMED = 0.45
_COLUMNS = ("image", "ground truth", "members differ", "the merge where they do", "the merge")


def different_classes(maps: Sequence[ClassMap]) -> ClassMap:
    """The number of different classes that the members give each pixel, (H, W).

    Args:
        maps: one for each member, (H, W) uint8 train IDs.
    """
    ordered = np.sort(np.stack(maps), axis=0)
    return (1 + (ordered[1:] != ordered[:-1]).sum(0)).astype(np.uint8)


def votes_for(maps: Sequence[ClassMap], chosen: ClassMap) -> ClassMap:
    """The number of members that give each pixel its class in ``chosen``, (H, W)."""
    return np.asarray(sum((one == chosen).astype(np.uint8) for one in maps), dtype=np.uint8)


@dataclass
class Counts:
    """Pixels, summed over images.

    Attributes:
        members: the number of members.
        pixels: indexed by the number of different classes (0 is unused).
        followed: disputed pixels where the merge follows the ``majority`` (more than half of the
            members), a ``minority``, or ``none`` of them.
        departed: undisputed pixels where the merge predicts another class than all members.
        labelled: labelled pixels that are ``disputed`` and ``undisputed``.
        right: those of them that each model predicts correctly: the members, then the merge.
        any_right: labelled disputed pixels that at least one member predicts correctly.
    """

    members: int
    pixels: NDArray[np.int64] = field(init=False)
    followed: dict[str, int] = field(
        default_factory=lambda: {"majority": 0, "minority": 0, "none": 0}
    )
    departed: int = 0
    labelled: dict[str, int] = field(default_factory=lambda: {"disputed": 0, "undisputed": 0})
    right: dict[str, NDArray[np.int64]] = field(init=False)
    any_right: int = 0

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.members + 1, dtype=np.int64)
        self.right = {kind: np.zeros(self.members + 1, dtype=np.int64) for kind in self.labelled}

    def add(self, maps: Sequence[ClassMap], merged: ClassMap, label: ClassMap) -> float:
        """Count one image.

        Args:
            maps: the class maps of the members, (H, W) uint8 train IDs.
            merged: the class map of the merge.
            label: train IDs; 255 is ignored.

        Returns:
            The share of its pixels that are disputed.
        """
        different = different_classes(maps)
        disputed = different > 1
        votes = votes_for(maps, merged)
        majority = votes * 2 > self.members
        self.pixels += np.bincount(different.ravel(), minlength=self.members + 1)
        self.followed["majority"] += int((disputed & majority).sum())
        self.followed["minority"] += int((disputed & ~majority & (votes > 0)).sum())
        self.followed["none"] += int((disputed & (votes == 0)).sum())
        self.departed += int((~disputed & (votes == 0)).sum())
        known = label != IGNORE_INDEX
        for kind, where in (("disputed", disputed & known), ("undisputed", ~disputed & known)):
            self.labelled[kind] += int(where.sum())
            self.right[kind] += [int((one == label)[where].sum()) for one in (*maps, merged)]
        self.any_right += int((disputed & known & (votes_for(maps, label) > 0)).sum())
        return float(disputed.mean())

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Shares in percent; None where there is no such pixel.

        Args:
            names: of the members, then of the merge.
        """
        total, disputed = int(self.pixels.sum()), int(self.pixels[2:].sum())
        return {
            "pixels": total,
            "disputed": _percent(disputed, total),
            "by_different_classes": {
                str(count): _percent(int(pixels), total)
                for count, pixels in enumerate(self.pixels)
                if count
            },
            "merge_on_disputed": {
                who: _percent(count, disputed) for who, count in self.followed.items()
            },
            "merge_against_all_on_undisputed": _percent(self.departed, total - disputed),
            "accuracy": {
                kind: {
                    "labelled_pixels": labelled,
                    **{
                        name: _percent(int(right), labelled)
                        for name, right in zip(names, self.right[kind], strict=True)
                    },
                }
                for kind, labelled in self.labelled.items()
            },
            "any_member_right_on_disputed": _percent(self.any_right, self.labelled["disputed"]),
        }


def _percent(part: int, whole: int) -> float | None:
    return part / whole * 100 if whole else None


@dataclass(frozen=True, eq=False)
class DisputedImage:
    """An image, its share of disputed pixels, and what the models predict."""

    name: str
    disputed: float
    image: NDArray[np.uint8]
    label: ClassMap
    different: ClassMap
    merged: ClassMap


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Counts over all images, the disputed share of each, and the most disputed images."""

    counts: Counts
    images: tuple[tuple[str, float], ...]
    worst: tuple[DisputedImage, ...]


def disagreement(
    members: Sequence[str],
    merge: str,
    data: ScoringData,
    shown: int = 4,
    on_image: Callable[[], object] = lambda: None,
) -> Disagreement:
    """Predict with each member, then with the merge, one model in memory at a time.

    Args:
        members: folders or Hub IDs.
        merge: a folder or Hub ID.
        data: the images.
        shown: number of the most disputed images to return.
        on_image: called after each prediction, for a progress bar.

    Raises:
        UserError: a model or an image cannot be read.
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

        counts, shares = Counts(len(members)), []
        for image in range(len(rows)):
            row, (*maps, merged) = rows[image], read(image)
            shares.append((str(row["name"]), counts.add(maps, merged, row["label"])))
        worst = []
        for image in sorted(range(len(rows)), key=lambda image: -shares[image][1])[:shown]:
            row, (*maps, merged) = rows[image], read(image)
            found = (row["image"], row["label"], different_classes(maps), merged)
            worst.append(DisputedImage(*shares[image], *found))
    return Disagreement(counts, tuple(shares), tuple(worst))


def draw_disagreement(images: Sequence[DisputedImage], path: Path) -> None:
    """Draw image, ground truth, disputed pixels, the merge there, and the map of the merge.

    Disputed pixels are orange for two different classes, red for three, violet for more. The
    merge is green there where it is right, red where it is wrong, white without a label.

    Args:
        images: at least one.
        path: the PNG.
    """
    rows = [
        [
            Panel(one.name, one.image),
            Panel(_COLUMNS[1], colourise(one.label)),
            Panel(f"{one.disputed * 100:.1f} % of pixels; 2 classes orange, 3 red", _disputed(one)),
            Panel("right green, wrong red, no label white", _merge_there(one)),
            Panel(_COLUMNS[4], colourise(one.merged)),
        ]
        for one in images
    ]
    present = np.unique(np.concatenate([np.unique([one.merged, one.label]) for one in images]))
    legend = [CLASSES[value] for value in present if value != IGNORE_INDEX]
    contact_sheet(rows, _COLUMNS, [""] * len(rows), legend, path, 300)


def _dimmed(one: DisputedImage) -> NDArray[np.uint8]:
    grey = one.image.mean(axis=2, keepdims=True)
    return np.repeat(grey * _DIMMED, 3, axis=2).astype(np.uint8)


def _disputed(one: DisputedImage) -> NDArray[np.uint8]:
    shown = _dimmed(one)
    disputed = one.different > 1
    shown[disputed] = _HEAT[np.minimum(one.different[disputed], 4) - 2]
    return shown


def _merge_there(one: DisputedImage) -> NDArray[np.uint8]:
    shown = _dimmed(one)
    disputed = one.different > 1
    known = one.label != IGNORE_INDEX
    right = one.merged == one.label
    shown[disputed & ~known] = _UNLABELLED
    shown[disputed & known & right] = _RIGHT
    shown[disputed & known & ~right] = _WRONG
    return shown
