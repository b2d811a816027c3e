"""Where members give pixels different classes, and what their merge decides there."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset

from revt_hf.analysis.blend_scores import Data
from revt_hf.core.errors import UserError
from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.evaluation.command import load_for_evaluation
from revt_hf.evaluation.predictor import model_segmenter

ClassMap = NDArray[np.uint8]


def different_classes(maps: Sequence[ClassMap]) -> ClassMap:
    """How many different classes the members give each pixel, (H, W); 1 where they agree.

    Args:
        maps: one a member, (H, W) uint8 train ids.
    """
    ordered = np.sort(np.stack(maps), axis=0)
    return (1 + (ordered[1:] != ordered[:-1]).sum(0)).astype(np.uint8)


def votes_for(maps: Sequence[ClassMap], chosen: ClassMap) -> ClassMap:
    """How many members give each pixel the chosen class, (H, W)."""
    return np.asarray(sum((one == chosen).astype(np.uint8) for one in maps), dtype=np.uint8)


@dataclass
class Counts:
    """Pixels, summed over images. "Right" ones count among labelled pixels only.

    Attributes:
        members: how many there are.
        pixels: by number of different classes (index; 0 is empty).
        followed: of disputed pixels: the merge follows the ``majority`` (more than half of the
            members), a ``minority``, or ``none`` of them.
        departed: of undisputed pixels: the merge decides against all members.
        labelled: labelled pixels that are ``disputed`` and ``undisputed``.
        right: of those, by model: the members in order, then the merge.
        any_right: labelled disputed pixels that at least one member has right.
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
            maps: the members' class maps, (H, W) uint8 train ids.
            merged: the merge's.
            label: train ids, 255 is ignored.

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
        right = votes_for(maps, label) > 0
        self.any_right += int((disputed & known & right).sum())
        return float(disputed.mean())

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Shares in percent; None where there is no such pixel.

        Args:
            names: of the members, then the merge.
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
                    "labelled_pixels": self.labelled[kind],
                    **{
                        name: _percent(int(right), self.labelled[kind])
                        for name, right in zip(names, self.right[kind], strict=True)
                    },
                }
                for kind in self.labelled
            },
            "any_member_right_on_disputed": _percent(self.any_right, self.labelled["disputed"]),
        }


@dataclass(frozen=True, eq=False)
class Scene:
    """One image with all that was decided on it."""

    name: str
    disputed: float
    image: NDArray[np.uint8]
    label: ClassMap
    different: ClassMap
    merged: ClassMap


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Counts over all images, each image's share of disputed pixels, the most disputed."""

    counts: Counts
    images: tuple[tuple[str, float], ...]
    scenes: tuple[Scene, ...]


def disagreement(
    members: Sequence[str],
    merge: str,
    data: Data,
    scenes: int = 4,
    on_image: Callable[[], object] = lambda: None,
) -> Disagreement:
    """Predict with each member, then the merge, one model in memory at a time.

    Args:
        members: folders or Hub ids.
        merge: a folder or Hub id.
        data: the images.
        scenes: so many of the most disputed images are given back.
        on_image: called after each prediction, for a progress bar.

    Raises:
        UserError: a model or an image cannot be read.
    """
    rows: Any = ConcatDataset(list(data.rows))
    with tempfile.TemporaryDirectory(prefix="revt-") as scratch:
        kept = _Kept(Path(scratch), len(members))
        for number, source in enumerate((*members, merge)):
            segmenter = model_segmenter(load_for_evaluation(source))
            for image in range(len(rows)):
                classes = segmenter.class_map(rows[image]["image"], data.protocol)
                kept.write(number, image, classes)
                on_image()
        counts, shares = Counts(len(members)), []
        for image in range(len(rows)):
            row = rows[image]
            shares.append((str(row["name"]), counts.add(*kept.read(image), row["label"])))
        worst = sorted(range(len(rows)), key=lambda image: -shares[image][1])[:scenes]
        chosen = []
        for image in worst:
            row, (maps, merged) = rows[image], kept.read(image)
            seen = (row["image"], row["label"], different_classes(maps), merged)
            chosen.append(Scene(*shares[image], *seen))
    return Disagreement(counts, tuple(shares), tuple(chosen))


class _Kept:
    """Class maps in a folder, so that only one model need be in memory."""

    def __init__(self, folder: Path, members: int) -> None:
        self._folder, self._members = folder, members

    def write(self, model: int, image: int, classes: ClassMap) -> None:
        path = self._path(model, image)
        if not cv2.imwrite(str(path), classes):
            raise UserError(f"cannot write {path}: set TMPDIR to a folder with room")

    def read(self, image: int) -> tuple[list[ClassMap], ClassMap]:
        """The members' class maps, and the merge's."""
        *maps, merged = (
            np.asarray(cv2.imread(str(self._path(model, image)), cv2.IMREAD_UNCHANGED), np.uint8)
            for model in range(self._members + 1)
        )
        return maps, merged

    def _path(self, model: int, image: int) -> Path:
        return self._folder / f"{model}-{image}.png"


def _percent(part: int, whole: int) -> float | None:
    return part / whole * 100 if whole else None
