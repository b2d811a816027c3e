"""Results of images and videos: class maps, overlays and comparisons, in a folder for each."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_file
from revt_hf.data.decoding import encode_png
from revt_hf.data.labels import CITYSCAPES_ID, CLASSES, NUM_CLASSES
from revt_hf.prediction.inputs import Input
from revt_hf.prediction.video import VideoOutput, video_suffix
from revt_hf.results.sheets import Panel, contact_sheet, legend_strip, overlay, title_strip

Kept = Literal["maps", "overlays", "side-by-side", "differences"]
KEPT: tuple[Kept, ...] = get_args(Kept)
Ids = Literal["train", "cityscapes"]
IDS: tuple[Ids, ...] = get_args(Ids)
LEGENDS = "legends"
DIFFERENCES = "where they differ"
# Widths of an image in a sheet, and of a legend.
_WIDEST, _NARROWEST, _LEGEND = 640, 160, 240
_DIMMED = 0.45
_DIFFERING = np.array((255, 64, 32), dtype=np.float32)
_CITYSCAPES = np.array([CITYSCAPES_ID[train_id] for train_id in range(NUM_CLASSES)], np.uint8)

# Class maps (H, W), uint8, train ids, by model.
Maps = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Outputs:
    """The folder of results: ``FOLDER/KIND/[MODEL/]NAME``; MODEL in maps and overlays of several.

    ``kept`` is what to write, None everything that suits the input; ``ids`` are those in maps.
    """

    folder: Path
    models: Sequence[str]
    kept: tuple[Kept, ...] | None
    ids: Ids = "train"

    def __post_init__(self) -> None:
        comparing = [kind for kind in self.kept or () if kind in KEPT[2:]]
        if comparing and len(self.models) < 2:
            raise UserError(f"--save {comparing[0]} compares models: name at least two")

    def kinds(self, is_video: bool) -> tuple[Kept, ...]:
        """What is written: by default everything but comparisons of one model and videos' maps."""
        if self.kept is not None:
            return self.kept
        return tuple(
            kind
            for kind in KEPT
            if (kind != "maps" or not is_video) and (kind in KEPT[:2] or len(self.models) > 1)
        )

    def path(self, kind: str, name: str, model: str | None = None) -> Path:
        """The path of a result; ``name`` includes the suffix."""
        own = [model] if model is not None and len(self.models) > 1 else []
        return self.folder.joinpath(kind, *own, name)

    def save_image(self, item: Input, image: NDArray[np.uint8], maps: Maps) -> list[Path]:
        """Write the results of an image (H, W, 3), uint8, RGB, and return their paths."""
        name, kinds = f"{item.name}.png", self.kinds(is_video=False)
        overlays, differing = self.drawn(image, maps)
        written: dict[Path, NDArray[np.uint8]] = {}
        for model, classes in maps.items():
            if "maps" in kinds:
                written[self.path("maps", name, model)] = self.in_ids(classes)
            if "overlays" in kinds:
                legend = with_legend(overlays[model], present([classes]))
                written[self.path("overlays", name, model)] = legend
        if "differences" in kinds:
            written[self.path("differences", name)] = differing
        for path, pixels in written.items():
            write_png(path, pixels)
        done = list(written)
        if "side-by-side" in kinds:
            done.append(self.path("side-by-side", name))
            panels = {"image": image, **overlays, DIFFERENCES: differing}
            sheet = [Panel(title, pixels) for title, pixels in panels.items()]
            width = min(max(image.shape[1], _NARROWEST), _WIDEST)
            contact_sheet([sheet], list(panels), [""], present(maps.values()), done[-1], width)
        return done

    def drawn(
        self, image: NDArray[np.uint8], maps: Maps
    ) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.uint8]]:
        """Overlays by model, and where models differ: (H, W, 3), uint8, RGB."""
        overlays = {model: overlay(image, classes) for model, classes in maps.items()}
        if len(maps) < 2:
            return overlays, image
        return overlays, difference_view(image, disagreement(list(maps.values())))

    def in_ids(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A class map (H, W), uint8, of train ids in the chosen ids."""
        return _CITYSCAPES[classes] if self.ids == "cityscapes" else classes


@dataclass
class VideoOutputs:
    """A video's results, written frame by frame in a ``with`` block; ``done`` are their paths.

    Videos keep their size, so the legend is an image of its own.
    """

    outputs: Outputs
    item: Input
    rate: float
    done: list[Path] = field(default_factory=list)
    _open: dict[Path, VideoOutput] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "VideoOutputs":
        return self

    def write(self, number: int, image: NDArray[np.uint8], maps: Maps) -> None:
        """Append the results of a frame (H, W, 3), uint8, RGB; numbers begin with 0."""
        kinds = self.outputs.kinds(is_video=True)
        name = f"{self.item.name}{video_suffix(self.item.path)}"
        self._seen |= set(present(maps.values()))
        overlays, differing = self.outputs.drawn(image, maps)
        for model, classes in maps.items() if "maps" in kinds else ():
            folder = self.outputs.path("maps", self.item.name, model)
            write_png(folder / f"{number:06}.png", self.outputs.in_ids(classes))
            if number == 0:
                self.done.append(folder)
        frames: dict[Path, NDArray[np.uint8]] = {}
        if "overlays" in kinds:
            frames = {self.outputs.path("overlays", name, m): one for m, one in overlays.items()}
        if "differences" in kinds:
            frames[self.outputs.path("differences", name)] = differing
        if "side-by-side" in kinds:
            row = side_by_side({**overlays, DIFFERENCES: differing})
            frames[self.outputs.path("side-by-side", name)] = row
        for path, frame in frames.items():
            if path not in self._open:
                self._open[path] = self._stack.enter_context(VideoOutput(path, self.rate))
                self.done.append(path)
            self._open[path].write(frame)

    def __exit__(self, *problem: object) -> None:
        self._stack.__exit__(*problem)  # type: ignore[arg-type]
        if self._open and problem[0] is None:
            self.done.append(self.outputs.path(LEGENDS, f"{self.item.name}.png"))
            blank = np.empty((0, _WIDEST, 3), np.uint8)
            classes = [name for name in CLASSES if name in self._seen]
            write_png(self.done[-1], with_legend(blank, classes))


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image (H, W, 3) RGB or a class map (H, W) as 8-bit PNG, atomically."""
    with atomic_file(path) as scratch:
        scratch.write_bytes(encode_png(image))


def present(maps: Iterable[NDArray[np.uint8]]) -> list[str]:
    """Names of the classes in class maps, in the order of train ids."""
    found = np.unique(np.concatenate([np.unique(classes) for classes in maps]))
    return [CLASSES[train_id] for train_id in found]


def with_legend(image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
    """An unchanged image (H, W, 3), uint8, RGB, above a legend of classes.

    Images narrower than 240 pixels are padded with white on the right: names need the width.
    """
    width = max(image.shape[1], _LEGEND)
    padding = ((0, 0), (0, width - image.shape[1]), (0, 0))
    padded = np.pad(image, padding, constant_values=255)
    return np.concatenate((padded, legend_strip(classes, width)))


def disagreement(maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """How much class maps (H, W) differ at each pixel, (H, W) float32.

    0 where all agree, 1 where no two do, else the share outside the majority.
    """
    votes = [sum((classes == other).astype(np.uint8) for other in maps) for classes in maps]
    others = len(maps) - np.max(votes, axis=0).astype(np.float32)
    return np.asarray(others / (len(maps) - 1), dtype=np.float32)


def difference_view(
    image: NDArray[np.uint8], disagreeing: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """An image (H, W, 3), uint8, RGB, in dimmed grey, with red where models disagree."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * _DIMMED
    # Keep pixels visible even if only a few models disagree.
    share = np.where(disagreeing > 0, 0.4 + 0.6 * disagreeing, 0)[..., None]
    return np.rint(grey[..., None] * (1 - share) + _DIFFERING * share).astype(np.uint8)


def side_by_side(images: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images (H, W, 3), uint8, RGB, of one size in a row, each below its title."""
    first = next(iter(images.values()))
    strip = title_strip(list(images), first.shape[1])
    return np.concatenate((strip, np.concatenate(list(images.values()), axis=1)))
