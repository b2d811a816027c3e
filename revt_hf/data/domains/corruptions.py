"""The ``corruptions`` domain: another domain's images, corrupted while they are read."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from revt_hf.config.yaml_files import Section, Seed
from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import (
    Domain,
    Facts,
    Given,
    Opened,
    Sharing,
    checked_options,
    fingerprint,
)
from revt_hf.data.domains.opening import DOMAINS, open_domain, register_domain
from revt_hf.data.label_space import LabelSpace

# Part of the fingerprint of corrupted images: raise it when a change moves their pixels.
CORRUPTIONS_VERSION = 1

NAME = "corruptions"
Kind = Literal["fog", "rain", "snow", "night", "motion_blur", "noise", "jpeg", "contrast"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)

# Noise, JPEG and contrast are ImageNet-C's (Hendrycks and Dietterich, 2019), the others are ours.
# Lengths are shares of the image's height, so that a severity means the same at any size;
# "drops" and "flakes" are albumentations' names: a quarter, a third, once and twice as many as the
# image has rows.
PARAMETERS: Mapping[Kind, Mapping[str, tuple[Any, ...]]] = {
    "fog": {"transmission": (0.75, 0.6, 0.45, 0.3, 0.2)},
    "rain": {
        "drops": ("drizzle", "default", "heavy", "heavy", "torrential"),
        "length": (0.04, 0.05, 0.06, 0.08, 0.1),
        "brightness": (0.95, 0.9, 0.85, 0.75, 0.65),
    },
    "snow": {
        "flakes": ("drizzle", "default", "heavy", "torrential", "torrential"),
        "snow_point": (0.1, 0.2, 0.3, 0.4, 0.5),
        "bleach": (1.2, 1.4, 1.6, 1.8, 2.0),
    },
    "night": {
        "gamma": (1.2, 1.4, 1.6, 1.85, 2.1),
        "exposure": (0.85, 0.72, 0.6, 0.5, 0.4),
        "noise": (0.1, 0.15, 0.2, 0.25, 0.3),
    },
    "motion_blur": {"length": (0.02, 0.035, 0.05, 0.07, 0.1)},
    "noise": {"std": (0.08, 0.12, 0.18, 0.26, 0.38)},
    "jpeg": {"quality": (25, 18, 15, 10, 7)},
    "contrast": {"factor": (0.4, 0.3, 0.2, 0.1, 0.05)},
}

# Of fog, as a share of white.
_AIRLIGHT = 0.8
_LABEL = re.compile(
    rf"(?P<base>.+)-(?P<kind>{'|'.join(KINDS)})-(?P<severity>[{SEVERITIES[0]}-{SEVERITIES[-1]}])"
    r"(-seed(?P<seed>\d+))?/(?P<split>[^/]+)"
)


def corrupt(
    image: NDArray[np.uint8], name: str, kind: Kind, severity: int, seed: int = 0
) -> NDArray[np.uint8]:
    """Corrupt an RGB image (H, W, 3), uint8, always in the same way; no pixel moves.

    What is random (where a drop falls, which way a camera shakes) is drawn from the seed, the kind
    and the image's name, not from the severity: an image's drops stay, and more of them come.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    values = {key: column[severity - 1] for key, column in PARAMETERS[kind].items()}
    pipeline = albumentations.Compose(_transforms(albumentations, kind, image.shape[0], **values))
    digest = hashlib.sha256(f"{seed}/{kind}/{name}".encode()).digest()
    pipeline.set_random_seed(int.from_bytes(digest[:4]))
    corrupted: NDArray[np.uint8] = pipeline(image=np.ascontiguousarray(image))["image"]
    return corrupted


def _transforms(A: Any, kind: Kind, height: int, **value: Any) -> list[Any]:
    """The transforms of a kind; ``A`` is albumentations, ``value`` a column of PARAMETERS."""

    def scaled(factor: float, offset: float, relative_to_mean: bool = False) -> Any:
        # factor x image + offset (a share of white, or of the image's mean)
        return A.RandomBrightnessContrast(
            brightness_limit=(offset, offset),
            contrast_limit=(factor - 1, factor - 1),
            brightness_by_max=not relative_to_mean,
            p=1,
        )

    def rain(slant: int, length: float, width: float, **more: Any) -> Any:
        size = {"drop_length": length * height, "drop_width": width * height}
        size = {key: max(1, round(pixels)) for key, pixels in size.items()}
        return A.RandomRain(slant_range=(-slant, slant), blur_value=3, p=1, **size, **more)

    match kind:
        case "fog":
            # Koschmieder's law at a single distance. RandomFog draws discs instead, slowly.
            return [scaled(value["transmission"], (1 - value["transmission"]) * _AIRLIGHT)]
        case "rain":
            look = {"rain_type": value["drops"], "brightness_coefficient": value["brightness"]}
            return [rain(10, value["length"], 0.003, **look)]
        case "snow":
            snow = {"brightness_coeff": value["bleach"], "method": "bleach"}
            cover = A.RandomSnow(snow_point_range=(value["snow_point"],) * 2, **snow, p=1)
            look = {"rain_type": value["flakes"], "brightness_coefficient": 1}
            return [cover, rain(2, 0.006, 0.006, **look, drop_color=(255, 255, 255))]
        case "night":
            gamma = A.RandomGamma(gamma_limit=(100 * value["gamma"],) * 2, p=1)
            grain = A.ISONoise(color_shift=(0.01, 0.01), intensity=(value["noise"],) * 2, p=1)
            return [gamma, scaled(value["exposure"], 0), grain]
        case "motion_blur":
            size = max(3, round(value["length"] * height) | 1)
            return [A.MotionBlur(blur_limit=(size, size), allow_shifted=False, p=1)]
        case "noise":
            return [A.GaussNoise(std_range=(value["std"], value["std"]), p=1)]
        case "jpeg":
            return [A.ImageCompression(quality_range=(value["quality"], value["quality"]), p=1)]
        case "contrast":
            return [scaled(value["factor"], 1 - value["factor"], relative_to_mean=True)]


class CorruptionsOptions(Section):
    base: str
    base_config: str | None = None
    base_options: dict[str, Any] = Field(default_factory=dict)
    kind: Kind
    severity: Annotated[int, Field(ge=SEVERITIES[0], le=SEVERITIES[-1])] = 3
    seed: Seed = 0


@dataclass(frozen=True)
class Corruption:
    """A corruption, and the label of the split whose images it changes."""

    kind: Kind
    severity: int
    seed: int
    of: str

    def __call__(self, image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        return corrupt(image, name, self.kind, self.severity, self.seed)

    @property
    def label(self) -> str:
        """A short name for tables, such as ``camvid-fog-3/val``."""
        base, _, split = self.of.rpartition("/")
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{base}-{self.kind}-{self.severity}{seed}/{split}"


def corruption_of(label: str) -> Corruption | None:
    """Parse a label of this domain; None if it is not one."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return None
    kind, severity, seed = cast("Kind", found["kind"]), int(found["severity"]), found["seed"]
    return Corruption(kind, severity, int(seed or 0), f"{found['base']}/{found['split']}")


@register_domain
class CorruptionsDomain(Domain):
    """Any other registered domain, corrupted, with its labels, splits, names and table of paths."""

    name = NAME
    facts = Facts(
        kind="any",
        license="that of the base domain",
        download="no download: another domain's images, corrupted while reading",
        sharing=Sharing("no", "they are made while reading: pass on the base domain"),
    )
    options_model = CorruptionsOptions

    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        base, *_ = self._base(options)
        opened = open_domain(base.name, split, data_dir, options.base_config, options.base_options)
        drawn = [options.kind, options.severity, options.seed]
        drawn += [CORRUPTIONS_VERSION, version("albumentations")]
        return replace(
            opened,
            decode=replace(opened.decode, change=self._corruption(split, data_dir, options)),
            content=fingerprint([opened.content, *drawn]),
            found=f"{opened.found}; {options.kind} of severity {options.severity}",
        )

    def space(self, options: Any) -> LabelSpace:
        base, _, settings = self._base(options)
        return base.space(settings)

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        base, base_config, base_options = self._base(options)
        return base.expected(split, base_config, base_options)

    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        base, base_config, base_options = self._base(options)
        return base.splits(data_dir, base_config, base_options)

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        return self._corruption(split, data_dir, checked_options(self, options)).label

    def _base(self, options: Any) -> tuple[Domain, str | None, BaseModel]:
        if options.base == self.name or options.base not in DOMAINS:
            bases = ", ".join(name for name in DOMAINS if name != self.name)
            raise UserError(f"{self.name}: unknown base '{options.base}': use one of {bases}")
        base = DOMAINS[options.base]
        settings = checked_options(base, options.base_options)
        return base, base.chosen_config(options.base_config), settings

    def _corruption(self, split: str, data_dir: Path | None, options: Any) -> Corruption:
        base, base_config, _ = self._base(options)
        of = base.label(split, data_dir, base_config, options.base_options)
        return Corruption(options.kind, options.severity, options.seed, of)
