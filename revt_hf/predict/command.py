"""What ``revt predict`` does: models on images and videos, one decode of each image."""

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.outputs import check_growing, growing_folder
from revt_hf.data.labels import CLASSES, NUM_CLASSES
from revt_hf.data_tools.jpeg_damage import JpegDamage
from revt_hf.data_tools.parallel import in_threads
from revt_hf.evaluation.command import chosen_protocol
from revt_hf.evaluation.evaluate import load_for_evaluation
from revt_hf.evaluation.loading import Row, minimum_side, same_size_batches, too_small
from revt_hf.evaluation.predictor import Segmenter, model_segmenter
from revt_hf.predict.inputs import Input, find_inputs, read_image
from revt_hf.predict.saving import KEPT, LEGENDS, Ids, Kept, Outputs, VideoOutputs
from revt_hf.predict.video import Video

_WRITTEN = [f"{kind}/*" for kind in (*KEPT, LEGENDS)]


@dataclass(frozen=True)
class PredictOptions:
    """How ``revt predict`` works.

    Attributes:
        kept: what to write; None is what suits images or videos.
        ids: what class maps hold.
        protocol: a name of ``PROTOCOLS``; None for what the models' folders name.
        max_size: ``WIDTHxHEIGHT`` or ``native``, in place of the protocol's own.
        batch_size: images of one size that go through a network together.
        workers: threads that decode images ahead.
        overwrite: write into a folder that has files already.
        quiet: no progress bar.
    """

    kept: tuple[Kept, ...] | None = None
    ids: Ids = "train"
    protocol: str | None = None
    max_size: str | None = None
    batch_size: int = 1
    workers: int = 2
    overwrite: bool = False
    quiet: bool = False


@dataclass
class Predicted:
    """What came out for an image, or for all frames of a video.

    Attributes:
        item: the image or video.
        size: (height, width).
        frames: how many; 1 for an image.
        pixels: of each class, by model.
        seconds: network and arg max, without reading and writing, by model.
        differing: pixels that not all models agree on.
        outputs: the files.
    """

    item: Input
    size: tuple[int, int] = (0, 0)
    frames: int = 0
    pixels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    differing: int = 0
    outputs: list[Path] = field(default_factory=list)

    def add(self, size: tuple[int, int], maps: Mapping[str, NDArray[np.uint8]], took: Any) -> None:
        """Count an image's or frame's class maps (H, W), uint8, by model."""
        self.size = size
        self.frames += 1
        for model, classes in maps.items():
            counts = np.bincount(classes.reshape(-1), minlength=NUM_CLASSES)
            self.pixels[model] = self.pixels.get(model, 0) + counts
            self.seconds[model] = self.seconds.get(model, 0.0) + took[model]
        first, *others = maps.values()
        if others:
            agreeing = np.logical_and.reduce([first == other for other in others])
            self.differing += int(agreeing.size - np.count_nonzero(agreeing))

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt predict --json`` writes; shares are 0..1."""
        total = self.size[0] * self.size[1] * self.frames
        return {
            "file": str(self.item.path),
            "name": self.item.name,
            "width": self.size[1],
            "height": self.size[0],
            "frames": self.frames if self.item.is_video else None,
            "models": {
                model: {
                    "seconds": round(self.seconds[model], 4),
                    "shares": {
                        CLASSES[train_id]: int(count) / total
                        for train_id, count in enumerate(counts)
                        if count
                    },
                }
                for model, counts in self.pixels.items()
            },
            "differing": self.differing / total if len(self.pixels) > 1 else None,
            "outputs": [str(path) for path in self.outputs],
        }


@dataclass(frozen=True)
class Prediction:
    """All that came out; ``failed`` are files that cannot be used, with the reason."""

    models: Mapping[str, str]
    protocol: Protocol
    ids: Ids
    images: Sequence[Predicted]
    failed: Sequence[tuple[Input, str]]

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt predict --json`` writes."""
        return {
            "models": dict(self.models),
            "protocol": self.protocol.model_dump(mode="json"),
            "ids": self.ids,
            "images": [image.to_json() for image in self.images],
            "failed": [{"file": str(item.path), "reason": reason} for item, reason in self.failed],
        }


def predict_command(
    places: Sequence[Path],
    models: Sequence[str],
    output: Path,
    options: PredictOptions | None = None,
) -> Prediction:
    """Write class maps and overlays of images and videos.

    A file that cannot be used is warned of, and the rest goes on.

    Args:
        places: images, folders of them, videos.
        models: SegFormer folders or Hub ids.
        output: the folder of results.
        options: how.

    Raises:
        UserError: a place does not exist, a model cannot be read, ``output`` has files already or
            cannot be written, or an option does not fit.
    """
    options = options or PredictOptions()
    sources = list(dict.fromkeys(str(Path(model)) for model in models))
    names = _model_names(sources)
    outputs = Outputs(output, names, options.kept, options.ids)
    check_growing(output, options.overwrite, _WRITTEN, sources)
    inputs, left_out = find_inputs(places, output)
    protocol = chosen_protocol(sources, options.max_size, options.protocol)
    segmenters = {
        name: model_segmenter(load_for_evaluation(source))
        for name, source in zip(names, sources, strict=True)
    }
    work = _Work(outputs, segmenters, protocol, options)
    work.leave_out(left_out)
    total = sum(not item.is_video for item in inputs)
    with (
        growing_folder(output, options.overwrite, _WRITTEN, places, inside=True),
        tqdm(total=total, unit="image", desc="predict", disable=options.quiet) as progress,
    ):
        images = work.run(inputs, progress)
    named = dict(zip(names, sources, strict=True))
    return Prediction(named, protocol, options.ids, images, work.failed)


def _model_names(sources: Sequence[str]) -> list[str]:
    """What tells the models apart, as names of folders: the ends of their paths.

    Raises:
        UserError: they cannot be told apart.
    """
    found = [
        Path(source).resolve() if Path(source).exists() else Path(source) for source in sources
    ]
    parts = [[part.strip("/") for part in path.parts] for path in found]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"--model names the same model twice: {', '.join(sources)}")


class _Work:
    def __init__(
        self,
        outputs: Outputs,
        segmenters: Mapping[str, Segmenter],
        protocol: Protocol,
        options: PredictOptions,
    ) -> None:
        self._outputs, self._segmenters = outputs, segmenters
        self._protocol, self._options = protocol, options
        self._minimum = minimum_side(model for one in segmenters.values() for model in one.models)
        self.failed: list[tuple[Input, str]] = []

    def leave_out(self, items: Mapping[str, str]) -> None:
        """Warn of files that cannot be taken, with the reason of each."""
        for file, reason in items.items():
            path = Path(file)
            self.failed.append((Input(path, path.stem, is_video=False), reason))
            warnings.warn(f"{file}: {reason}", DataWarning, stacklevel=2)

    def run(self, inputs: Sequence[Input], progress: Any) -> list[Predicted]:
        """Images first, then videos, one after the other."""
        videos = [item for item in inputs if item.is_video]
        images = [item for item in inputs if not item.is_video]
        done = []
        for row, maps, took in self._predicted(self._read(images, progress)):
            one = Predicted(row["item"])
            one.add(row["image"].shape[:2], maps, took)
            one.outputs = self._outputs.save_image(one.item, row["image"], maps)
            done.append(one)
            progress.update()
        done += [found for item in videos if (found := self._video(item, progress))]
        order = {item: number for number, item in enumerate(inputs)}
        return sorted(done, key=lambda one: order[one.item])

    def _read(self, items: Sequence[Input], progress: Any) -> Iterator[Row]:
        workers = max(1, self._options.workers)
        with JpegDamage() as damage:
            for item, read, found in in_threads(partial(read_image, damage), items, workers):
                try:
                    if isinstance(read, UserError):
                        raise read
                    self._check_size(item, read)
                except UserError as error:
                    self._fail(item, error, progress)
                    progress.update()
                    continue
                if found:
                    progress.clear()
                    what = f"{item.path}: damaged inside, shown as far as it goes ({found})"
                    warnings.warn(what, DataWarning, stacklevel=2)
                yield {"item": item, "image": read}

    def _check_size(self, item: Input, image: NDArray[np.uint8]) -> None:
        """Refuse an image or frame (H, W, 3) that a network cannot take."""
        size = (image.shape[0], image.shape[1])
        reason = too_small(size, self._protocol, self._minimum)
        if reason:
            raise UserError(f"{item.path}: {reason}")

    def _video(self, item: Input, progress: Any) -> Predicted | None:
        one = Predicted(item)
        try:
            video = Video(item.path)
        except UserError as error:
            self._fail(item, error, progress)
            return None
        progress.total += video.frames
        progress.refresh()
        with VideoOutputs(self._outputs, item, video.rate) as writing:
            for row, maps, took in self._predicted(self._frames(item, video, progress)):
                writing.write(one.frames, row["image"], maps)
                one.add(row["image"].shape[:2], maps, took)
                progress.update()
        one.outputs = writing.done
        return one if one.frames else None

    def _frames(self, item: Input, video: Video, progress: Any) -> Iterator[Row]:
        try:
            for frame in video:
                self._check_size(item, frame)
                yield {"image": frame}
        except UserError as error:
            self._fail(item, error, progress)

    def _predicted(
        self, rows: Iterable[Row]
    ) -> Iterator[tuple[Row, dict[str, NDArray[np.uint8]], dict[str, float]]]:
        """Rows with their class maps and the seconds that these took, by model."""
        for batch in same_size_batches(rows, self._protocol, self._options.batch_size):
            images = [row["image"] for row in batch]
            maps, took = {}, {}
            for name, segmenter in self._segmenters.items():
                since = time.perf_counter()
                maps[name] = segmenter.class_maps(images, self._protocol)
                took[name] = (time.perf_counter() - since) / len(batch)
            for number, row in enumerate(batch):
                yield row, {name: found[number] for name, found in maps.items()}, took

    def _fail(self, item: Input, error: UserError, progress: Any) -> None:
        reason = str(error)
        self.failed.append((item, reason.removeprefix(f"{item.path}: ")))
        progress.clear()
        warnings.warn(reason, DataWarning, stacklevel=2)
