"""The ``streets`` domain: a toy benchmark for domain generalisation, drawn by this package."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import datasets
from pydantic import Field

from revt_hf.config.yaml_files import Section, Seed
from revt_hf.core.errors import UserError
from revt_hf.data.decoding import encode_png
from revt_hf.data.domains.base import (
    FEATURES,
    Domain,
    Facts,
    Given,
    Opened,
    Sharing,
    arrow_split,
    fingerprint,
)
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.streets.paint import STYLES, render
from revt_hf.data.labels import TRAIN_IDS
from revt_hf.data.reading import Decode

# Part of the fingerprint of drawn images: raise it when a change moves pixels or labels.
STREETS_VERSION = 1

# Seed of each split's first scene: far enough apart never to meet.
_FIRST_SCENE = {"train": 0, "val": 1_000_000}
_SCENES_PER_SEED = 10_000_000

Count = Annotated[int, Field(gt=0, le=1_000_000)]
Height = Annotated[int, Field(ge=64, le=4096)]
Width = Annotated[int, Field(ge=128, le=8192)]


class StreetsOptions(Section):
    """Options of the ``streets`` domain: sizes of the splits, (height, width) of images, seed."""

    images: Count = 100
    val_images: Count = 40
    size: tuple[Height, Width] = (128, 256)
    seed: Seed = 0


class StreetsBuilder(datasets.GeneratorBasedBuilder):
    """The scenes of one split in one style, as PNG bytes."""

    def __init__(self, style: str, split: str, options: StreetsOptions, **kwargs: Any) -> None:
        self._style, self._split, self._options = style, split, options
        super().__init__(**kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, _: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        first = _FIRST_SCENE[self._split] + self._options.seed * _SCENES_PER_SEED
        scenes = list(range(first, first + _count(self._split, self._options)))
        return [datasets.SplitGenerator(arrow_split(self._split), {"scenes": scenes})]

    def _generate_examples(self, scenes: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        height, width = self._options.size
        for key, scene in enumerate(scenes):
            drawn = (encode_png(one) for one in render(scene, self._style, height, width))
            image, label = ({"path": None, "bytes": data} for data in drawn)
            yield key, {"image": image, "label": label, "name": f"{self._style}-{scene:08d}"}


@register_domain
class StreetsDomain(Domain):
    """Drawn streets; a scene has the same layout and label in every style, which is a config."""

    name = "streets"
    facts = Facts(
        kind="synthetic",
        license="Apache-2.0",
        download="no download: this package draws it",
        sharing=Sharing("yes", "it is drawn by this package", "apache-2.0"),
        images={"train": StreetsOptions().images, "val": StreetsOptions().val_images},
    )
    options_model = StreetsOptions
    needs_data_dir = False
    configs = tuple(STYLES)

    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        style = str(self.chosen_config(config))
        if split not in _FIRST_SCENE:
            raise UserError(f"unknown split '{split}' of streets: use train or val")
        identity = fingerprint([style, split, options.model_dump(), STREETS_VERSION])
        known = {"dataset_name": self.name, "hash": identity}
        return Opened(
            builder=partial(StreetsBuilder, style, split, options, **known),
            decode=Decode(TRAIN_IDS),
            layout="built-in",
            found=f"drawn by this package, style '{style}'",
            images=_count(split, options),
            content=identity,
        )

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        return _count(split, options) if split in _FIRST_SCENE else None

    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        return tuple(_FIRST_SCENE)

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        return f"{self.chosen_config(config)}/{split}"


def _count(split: str, options: StreetsOptions) -> int:
    return options.images if split == "train" else options.val_images
