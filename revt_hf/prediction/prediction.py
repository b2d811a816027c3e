"""Predict images and videos with one or several models, decoding each image once."""

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.outputs import check_output, growing_folder
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX, IGNORED, LabelSpace
from revt_hf.data.parallel import in_threads, jpeg_damage
from revt_hf.evaluation.evaluate import load_segmenters
from revt_hf.evaluation.loading import Row, same_size_batches, too_small
from revt_hf.evaluation.predictor import Segmenter
from revt_hf.models.networks import InputLimits, input_limits
from revt_hf.models.recorded import recorded_protocol
from revt_hf.prediction import saving
from revt_hf.prediction.inputs import Input, find_inputs, read_image

Seconds: TypeAlias = Mapping[str, float]  # by model
_WRITTEN = [f"{kind}/*" for kind in (*saving.KEPT, saving.LEGENDS)]


@dataclass(frozen=True)
class PredictOptions:
    """Options of :func:`predict_files`; the defaults are those of ``revt predict``."""

    kept: tuple[saving.Kept, ...] | None = None  # None: everything that suits the input
    ids: saving.Ids = "train"
    protocol: Protocol | None = None  # None: the one that the models record
    batch_size: int = 1
    workers: int = 2  # threads that decode images ahead
    overwrite: bool = False
    quiet: bool = False
    mapping: ClassMapping | None = None  # None: the models' own classes


@dataclass
class Predicted:
    """The results of an image, or of all frames of a video."""

    item: Input
    size: tuple[int, int] = (0, 0)  # height, width
    frames: int = 0
    # By model: pixels of each class, and seconds of network and arg max.
    pixels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    differing: int = 0  # pixels on which the models disagree
    outputs: list[Path] = field(default_factory=list)

    def add(self, maps: saving.Maps, seconds: Seconds) -> None:
        """Count the class maps of an image or frame."""
        self.frames += 1
        for model, classes in maps.items():
            self.size = (classes.shape[0], classes.shape[1])
            counts = np.bincount(classes.reshape(-1), minlength=256)
            self.pixels[model] = self.pixels.get(model, 0) + counts
            self.seconds[model] = self.seconds.get(model, 0.0) + seconds[model]
        first, *others = maps.values()
        if others:
            agreeing = np.logical_and.reduce([first == other for other in others])
            self.differing += int(agreeing.size - np.count_nonzero(agreeing))

    def to_json(self, space: LabelSpace) -> dict[str, Any]:
        total = self.size[0] * self.size[1] * self.frames
        models, names = {}, {**dict(enumerate(space.classes)), IGNORE_INDEX: IGNORED}
        for model, counts in self.pixels.items():
            shares = {names[at]: int(counts[at]) / total for at in np.flatnonzero(counts).tolist()}
            models[model] = {"seconds": round(self.seconds[model], 4), "shares": shares}
        return {
            "file": str(self.item.path),
            "name": self.item.name,
            "width": self.size[1],
            "height": self.size[0],
            "frames": self.frames if self.item.is_video else None,
            "models": models,
            "differing": self.differing / total if len(models) > 1 else None,
            "outputs": [str(path) for path in self.outputs],
        }


@dataclass(frozen=True)
class Prediction:
    """All results; ``failed`` are the files that cannot be used, each with the reason."""

    models: Mapping[str, str]
    protocol: Protocol
    ids: saving.Ids
    space: LabelSpace
    mapping: ClassMapping | None
    images: Sequence[Predicted]
    failed: Sequence[tuple[Input, str]]

    def to_json(self) -> dict[str, Any]:
        return {
            "models": dict(self.models),
            "protocol": self.protocol.model_dump(mode="json"),
            "ids": self.ids,
            "mapping": self.mapping and self.mapping.model_dump(mode="json"),
            "images": [image.to_json(self.space) for image in self.images],
            "failed": [{"file": str(item.path), "reason": reason} for item, reason in self.failed],
        }


def predict_files(
    models: Mapping[str, str],
    paths: Sequence[Path],
    output: Path,
    options: PredictOptions | None = None,
) -> Prediction:
    """Write class maps and overlays of images, folders and videos; failing files are warnings."""
    options = options or PredictOptions()
    named = short_names(models)
    outputs = saving.Outputs(output, tuple(named), options.kept, options.ids)
    check_output(output, options.overwrite, list(named.values()), _WRITTEN)
    inputs, left_out = find_inputs(paths, output)
    protocol = options.protocol or recorded_protocol(list(named.values()))
    segmenters = load_segmenters(named)
    if (mapping := options.mapping) is not None:
        segmenters = {name: one.mapped(mapping, mapping.space) for name, one in segmenters.items()}
    first = next(iter(segmenters.values()))
    space = first.space
    if options.ids == "cityscapes" and space != CITYSCAPES:
        raise UserError("--ids cityscapes: the models predict other classes than Cityscapes'")
    outputs = replace(outputs, space=space)
    # Also refuses networks that images alone are not enough for.
    limits = input_limits(model for one in segmenters.values() for model in one.models)
    run = _Run(outputs, segmenters, protocol, options, limits)
    for file, reason in left_out.items():
        run.fail(Input(Path(file), Path(file).stem, is_video=False), reason)
    images = sum(not item.is_video for item in inputs)
    with (
        growing_folder(output, options.overwrite, _WRITTEN, paths, inside=True),
        tqdm(total=images, unit="image", desc="predict", disable=options.quiet) as run.progress,
    ):
        done = run.predict(inputs)
    return Prediction(named, protocol, options.ids, space, first.mapping, done, run.failed)


def short_names(models: Mapping[str, str]) -> dict[str, str]:
    """Models by names that can be folders: their labels, or the shortest ends of their paths."""
    parts = []
    for name, model in models.items():
        path = Path(model).resolve() if Path(model).exists() else Path(model)
        parts.append([part.strip("/") for part in path.parts] if name == model else [name])
        if parts[-1] in (["."], [".."]):
            raise UserError(f"{name}={model}: choose another name, it becomes a folder")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, models.values(), strict=True))
    raise UserError(f"the same model is listed twice: {', '.join(models.values())}")


@dataclass
class _Run:
    outputs: saving.Outputs
    segmenters: Mapping[str, Segmenter]
    protocol: Protocol
    options: PredictOptions
    limits: InputLimits
    failed: list[tuple[Input, str]] = field(default_factory=list)
    progress: Any = None

    def fail(self, item: Input, reason: str) -> None:
        reason = reason.removeprefix(f"{item.path}: ")
        self.failed.append((item, reason))
        self._warn(f"{item.path}: {reason}")

    def _warn(self, sentence: str) -> None:
        if self.progress is not None:
            self.progress.clear()
        warnings.warn(sentence, DataWarning, stacklevel=2)

    def predict(self, inputs: Sequence[Input]) -> list[Predicted]:
        """Predict images, then videos; the results are in the order of the inputs."""
        done: dict[Input, Predicted] = {}
        images = [item for item in inputs if not item.is_video]
        for row, maps, seconds in self._predicted(self._images(images)):
            one = done[row["item"]] = Predicted(row["item"])
            one.add(maps, seconds)
            one.outputs = self.outputs.save_image(one.item, row["image"], maps)
            self.progress.update()
        for item in inputs:
            if item.is_video:
                self._video(item, done)
        return [done[item] for item in inputs if item in done]

    def _images(self, items: Sequence[Input]) -> Iterator[Row]:
        with jpeg_damage() as find_damage:
            read = partial(read_image, find_damage)
            for item, image, found in in_threads(read, items, max(1, self.options.workers)):
                reason = str(image) if isinstance(image, UserError) else self._too_small(image)
                if reason:
                    self.fail(item, reason)
                    self.progress.update()
                    continue
                if found:
                    self._warn(f"{item.path}: damaged inside, shown as far as it goes ({found})")
                yield {"item": item, "image": image}

    def _too_small(self, image: NDArray[np.uint8]) -> str | None:
        """Why a network cannot take an image or frame (H, W, 3)."""
        return too_small((image.shape[0], image.shape[1]), self.protocol, self.limits)

    def _video(self, item: Input, done: dict[Input, Predicted]) -> None:
        try:
            video = saving.Video(item.path)
        except UserError as error:
            self.fail(item, str(error))
            return
        self.progress.total += video.frames
        self.progress.refresh()
        one = Predicted(item)
        with saving.VideoOutputs(self.outputs, item, video.rate, one.outputs) as writing:
            for row, maps, seconds in self._predicted(self._frames(item, video)):
                writing.write(one.frames, row["image"], maps)
                one.add(maps, seconds)
                done[item] = one
                self.progress.update()

    def _frames(self, item: Input, video: saving.Video) -> Iterator[Row]:
        try:
            for frame in video:
                if reason := self._too_small(frame):
                    raise UserError(reason)
                yield {"image": frame}
        except UserError as error:
            self.fail(item, str(error))

    def _predicted(self, rows: Iterable[Row]) -> Iterator[tuple[Row, saving.Maps, Seconds]]:
        """Rows with their class maps and the seconds these took, by model."""
        for batch in same_size_batches(rows, self.protocol, self.options.batch_size):
            images = [row["image"] for row in batch]
            maps, seconds = {}, {}
            for name, segmenter in self.segmenters.items():
                since = time.perf_counter()
                maps[name] = segmenter.class_maps(images, self.protocol)
                seconds[name] = (time.perf_counter() - since) / len(batch)
            for number, row in enumerate(batch):
                yield row, {name: found[number] for name, found in maps.items()}, seconds
