"""Results of images and videos: class maps, overlays and comparisons, in a folder for each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import clear_files, scratch_file
from revt_hf.core.outputs import atomic_file
from revt_hf.data.decoding import encode_png
from revt_hf.data.label_space import CITYSCAPES, CITYSCAPES_ID, Colour, LabelSpace
from revt_hf.prediction.inputs import Input
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
# Predictions without a counterpart, 255, become Cityscapes' unlabeled, 0.
_CITYSCAPES = np.array([CITYSCAPES_ID.get(train_id, 0) for train_id in range(256)], np.uint8)
_CODECS = {".avi": "MJPG", ".mp4": "mp4v"}
# Containers without an index only estimate their number of frames.
_TOLERATED = 0.02

Image: TypeAlias = NDArray[np.uint8]  # (H, W, 3), RGB
# Class maps (H, W), uint8, train ids, by model.
Maps: TypeAlias = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Outputs:
    """The folder of results: ``FOLDER/KIND/[MODEL/]NAME``; MODEL in maps and overlays of several.

    ``kept`` is what to write, None everything that suits the input; ``ids`` are those in maps.
    """

    folder: Path
    models: Sequence[str]
    kept: tuple[Kept, ...] | None
    ids: Ids = "train"
    space: LabelSpace = CITYSCAPES

    def __post_init__(self) -> None:
        comparing = [kind for kind in self.kept or () if kind in KEPT[2:]]
        if comparing and len(self.models) < 2:
            raise UserError(f"--save {comparing[0]} compares models: name at least two")

    def kinds(self, is_video: bool) -> tuple[Kept, ...]:
        """What is written: by default everything but comparisons of one model and videos' maps."""
        if self.kept is not None:
            return self.kept
        suiting = KEPT if len(self.models) > 1 else KEPT[:2]
        return suiting[1:] if is_video else suiting

    def path(self, kind: str, name: str, model: str | None = None) -> Path:
        own = [model] if model is not None and len(self.models) > 1 else []
        return self.folder.joinpath(kind, *own, name)

    def save_image(self, item: Input, image: Image, maps: Maps) -> list[Path]:
        """Write the results of an image and return their paths."""
        name, kinds = f"{item.name}.png", self.kinds(is_video=False)
        drawn = views_of(image, maps, self.space)
        written: dict[Path, NDArray[np.uint8]] = {}
        for model, classes in maps.items():
            if "maps" in kinds:
                written[self.path("maps", name, model)] = self.in_ids(classes)
            if "overlays" in kinds:
                legend = _with_legend(drawn[model], self.space.legend([classes]))
                written[self.path("overlays", name, model)] = legend
        if "differences" in kinds:
            written[self.path("differences", name)] = drawn[DIFFERENCES]
        for path, pixels in written.items():
            write_png(path, pixels)
        done = list(written)
        if "side-by-side" in kinds:
            done.append(self.path("side-by-side", name))
            panels = {"image": image, **drawn}
            sheet = [Panel(title, pixels) for title, pixels in panels.items()]
            width = min(max(image.shape[1], _NARROWEST), _WIDEST)
            colours = self.space.legend(maps.values())
            contact_sheet([sheet], list(panels), [""], colours, done[-1], width)
        return done

    def in_ids(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return _CITYSCAPES[classes] if self.ids == "cityscapes" else classes


@dataclass
class VideoOutputs:
    """A video's results, written frame by frame in a ``with`` block; the legend is an image."""

    outputs: Outputs
    item: Input
    rate: float
    done: list[Path] = field(default_factory=list)
    _open: dict[Path, "VideoOutput"] = field(default_factory=dict)
    _seen: dict[str, Colour] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "VideoOutputs":
        return self

    def write(self, number: int, image: Image, maps: Maps) -> None:
        """Append the results of a frame; numbers begin with 0."""
        kinds = self.outputs.kinds(is_video=True)
        suffix = ".avi" if self.item.path.suffix.lower() == ".avi" else ".mp4"
        name = f"{self.item.name}{suffix}"
        space = self.outputs.space
        self._seen |= space.legend(maps.values())
        drawn = views_of(image, maps, space)
        for model, classes in maps.items() if "maps" in kinds else ():
            folder = self.outputs.path("maps", self.item.name, model)
            write_png(folder / f"{number:06}.png", self.outputs.in_ids(classes))
            if number == 0:
                self.done.append(folder)
        frames: dict[Path, Image] = {}
        if "overlays" in kinds:
            frames = {self.outputs.path("overlays", name, model): drawn[model] for model in maps}
        if "differences" in kinds:
            frames[self.outputs.path("differences", name)] = drawn[DIFFERENCES]
        if "side-by-side" in kinds:
            # Each below its title.
            parts = (title_strip(list(drawn), image.shape[1]), np.hstack(list(drawn.values())))
            frames[self.outputs.path("side-by-side", name)] = np.concatenate(parts)
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
            order = self.outputs.space.classes
            classes = {name: self._seen[name] for name in order if name in self._seen}
            write_png(self.done[-1], _with_legend(blank, classes))


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image (H, W, 3) RGB or a class map (H, W) as 8-bit PNG, atomically."""
    with atomic_file(path) as scratch:
        scratch.write_bytes(encode_png(image))


def _with_legend(image: Image, classes: Mapping[str, Colour]) -> Image:
    """An unchanged image above a legend of classes; padded on the right if names need the width."""
    width = max(image.shape[1], _LEGEND)
    padding = ((0, 0), (0, width - image.shape[1]), (0, 0))
    padded = np.pad(image, padding, constant_values=255)
    return np.concatenate((padded, legend_strip(classes, width)))


def disagreement(maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Share of class maps (H, W) outside each pixel's majority: 0 if all agree, 1 if no two do."""
    votes = [sum((classes == other).astype(np.uint8) for other in maps) for classes in maps]
    others = len(maps) - np.max(votes, axis=0).astype(np.float32)
    return np.asarray(others / (len(maps) - 1), dtype=np.float32)


def views_of(image: Image, maps: Maps, space: LabelSpace) -> dict[str, Image]:
    """Overlays by model; and in dimmed grey with red, where several models differ."""
    drawn = {model: overlay(image, classes, space=space) for model, classes in maps.items()}
    if len(maps) > 1:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * _DIMMED
        disagreeing = disagreement(list(maps.values()))
        # Keep pixels visible even if only a few models disagree.
        share = np.where(disagreeing > 0, 0.4 + 0.6 * disagreeing, 0)[..., None]
        view = np.rint(grey[..., None] * (1 - share) + _DIFFERING * share)
        drawn[DIFFERENCES] = view.astype(np.uint8)
    return drawn


class Video:
    """A video that is read frame by frame, rotated as it is displayed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise UserError(f"{path}: not a regular file")
        self._capture = cv2.VideoCapture(str(path))
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        # Negative where the container does not record it.
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if not self._capture.isOpened() or not self.rate > 0:
            raise UserError(f"{path}: not a video that OpenCV can read")

    def __iter__(self) -> Iterator[Image]:
        """The frames; an error if clearly fewer exist than the file records."""
        count = 0
        while (read := self._capture.read())[0]:
            count += 1
            yield np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), dtype=np.uint8)
        self._capture.release()
        missing = self.frames - count
        if count == 0 or missing > max(1, _TOLERATED * self.frames):
            raise UserError(f"{self._path}: the video ends after {count} of {self.frames} frames")


class VideoOutput:
    """A video that is written frame by frame and appears when the ``with`` block ends."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        # OpenCV chooses the container by the suffix.
        self._scratch = scratch_file(path)
        self._writer: Any = None
        self._frames = 0

    def __enter__(self) -> "VideoOutput":
        with readable_os_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            clear_files(self._path.parent)
        return self

    def write(self, frame: Image) -> None:
        """Append a frame; all have the same size."""
        odd_rows, odd_columns = frame.shape[0] % 2, frame.shape[1] % 2
        even = np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix])
            size = (even.shape[1], even.shape[0])
            self._writer = cv2.VideoWriter(str(self._scratch), codec, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(f"cannot write {self._path}: OpenCV has no encoder for it here")
        self._frames += 1
        self._writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is None and self._writer is not None:
                # OpenCV does not report a full disk.
                written = cv2.VideoCapture(str(self._scratch)).get(cv2.CAP_PROP_FRAME_COUNT)
                if written < self._frames:
                    raise UserError(
                        f"cannot write {self._path}: the file is cut short; is the disk full?"
                    )
                with readable_os_errors(self._path):
                    self._scratch.replace(self._path)
        finally:
            self._scratch.unlink(missing_ok=True)
