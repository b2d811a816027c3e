"""What is written for an image or a video, and where: ``OUTPUT/<what>/[<model>/]<name>``."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_file
from revt_hf.data.labels import CLASSES, NUM_CLASSES
from revt_hf.data.labels.classes import CITYSCAPES_ID
from revt_hf.predict.drawing import (
    difference_view,
    disagreement,
    present,
    side_by_side,
    with_legend,
)
from revt_hf.predict.inputs import Input
from revt_hf.predict.video import VideoOutput, video_suffix
from revt_hf.results.sheets import Panel, contact_sheet, overlay

Kept = Literal["maps", "overlays", "side-by-side", "differences"]
KEPT: tuple[Kept, ...] = get_args(Kept)
Ids = Literal["train", "cityscapes"]
IDS: tuple[Ids, ...] = get_args(Ids)
LEGENDS = "legends"
DIFFERENCES = "where they differ"
# Of one image in a sheet.
_WIDEST = 640
_NARROWEST = 160

_CITYSCAPES = np.array([CITYSCAPES_ID[train_id] for train_id in range(NUM_CLASSES)], np.uint8)

Maps = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Outputs:
    """The folder of results.

    Attributes:
        folder: where everything goes.
        models: their names; with several each has a folder in ``maps`` and ``overlays``.
        kept: what to write; None is what suits images or videos, see :meth:`kinds`.
        ids: what class maps hold.
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
        """What is written: all, but comparisons of one model and the frames' maps of a video."""
        if self.kept is not None:
            return self.kept
        return tuple(
            kind
            for kind in KEPT
            if (kind != "maps" or not is_video) and (kind in KEPT[:2] or len(self.models) > 1)
        )

    def place(self, kind: str, name: str, model: str | None = None) -> Path:
        """Where a result goes; ``name`` has its suffix."""
        own = [model] if model is not None and len(self.models) > 1 else []
        return self.folder.joinpath(kind, *own, name)

    def save_image(self, item: Input, image: NDArray[np.uint8], maps: Maps) -> list[Path]:
        """Write what is wanted of an image.

        Args:
            item: the image.
            image: (H, W, 3), uint8, RGB.
            maps: (H, W), uint8, train ids, by model.

        Returns:
            The files.

        Raises:
            UserError: one cannot be written.
        """
        name, kinds = f"{item.name}.png", self.kinds(is_video=False)
        written: dict[Path, NDArray[np.uint8]] = {}
        overlays = {model: overlay(image, classes) for model, classes in maps.items()}
        for model, classes in maps.items():
            if "maps" in kinds:
                written[self.place("maps", name, model)] = self.in_ids(classes)
            if "overlays" in kinds:
                legend = with_legend(overlays[model], present([classes]))
                written[self.place("overlays", name, model)] = legend
        for path, pixels in written.items():
            write_png(path, pixels)
        done = list(written)
        if {"side-by-side", "differences"} & set(kinds):
            differing = difference_view(image, disagreement(list(maps.values())))
            if "differences" in kinds:
                done.append(self.place("differences", name))
                write_png(done[-1], differing)
            if "side-by-side" in kinds:
                done.append(self.place("side-by-side", name))
                panels = {"image": image, **overlays, DIFFERENCES: differing}
                titles = list(panels)
                sheet = [Panel(title, pixels) for title, pixels in panels.items()]
                width = min(max(image.shape[1], _NARROWEST), _WIDEST)
                contact_sheet([sheet], titles, [""], present(maps.values()), done[-1], width)
        return done

    def in_ids(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A class map (H, W), uint8, of train ids in the ids that are wanted."""
        return _CITYSCAPES[classes] if self.ids == "cityscapes" else classes


@dataclass
class VideoOutputs:
    """What is written of a video, frame by frame, in a ``with`` block; ``done`` are the files.

    Videos keep their size, so the legend stands in an image beside them.
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
        """Append what is wanted of a frame.

        Args:
            number: of the frame, from 0.
            image: (H, W, 3), uint8, RGB.
            maps: (H, W), uint8, train ids, by model.

        Raises:
            UserError: a file cannot be written.
        """
        kinds = self.outputs.kinds(is_video=True)
        name = f"{self.item.name}{video_suffix(self.item.path)}"
        self._seen |= set(present(maps.values()))
        overlays = {model: overlay(image, classes) for model, classes in maps.items()}
        if "maps" in kinds:
            for model, classes in maps.items():
                folder = self.outputs.place("maps", self.item.name, model)
                write_png(folder / f"{number:06}.png", self.outputs.in_ids(classes))
                if number == 0:
                    self.done.append(folder)
        if "overlays" in kinds:
            for model, pixels in overlays.items():
                self._append(self.outputs.place("overlays", name, model), pixels)
        if {"side-by-side", "differences"} & set(kinds):
            differing = difference_view(image, disagreement(list(maps.values())))
            if "differences" in kinds:
                self._append(self.outputs.place("differences", name), differing)
            if "side-by-side" in kinds:
                panels = {**overlays, DIFFERENCES: differing}
                row = side_by_side(list(panels.values()), list(panels))
                self._append(self.outputs.place("side-by-side", name), row)

    def _append(self, path: Path, frame: NDArray[np.uint8]) -> None:
        if path not in self._open:
            self._open[path] = self._stack.enter_context(VideoOutput(path, self.rate))
            self.done.append(path)
        self._open[path].write(frame)

    def __exit__(self, *problem: object) -> None:
        self._stack.__exit__(*problem)  # type: ignore[arg-type]
        if self._open and problem[0] is None:
            self.done.append(self.outputs.place(LEGENDS, f"{self.item.name}.png"))
            blank = np.empty((0, _WIDEST, 3), np.uint8)
            classes = [name for name in CLASSES if name in self._seen]
            write_png(self.done[-1], with_legend(blank, classes))


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image (H, W, 3) RGB or a class map (H, W) as 8-bit PNG, atomically.

    Raises:
        UserError: it cannot be written.
    """
    in_order = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".png", in_order)[1].tobytes()
    with atomic_file(path) as scratch:
        scratch.write_bytes(data)
