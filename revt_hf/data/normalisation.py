"""How images are normalised before the network: RGB, channel by channel, on 0..255."""

from dataclasses import dataclass
from typing import Any

# ImageNet's: what every SegFormer of the original is trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """The fields of a ``preprocessor_config.json`` that decide the network's input values.

    The defaults are ImageNet's constants, which a model without that file is used with.

    Attributes:
        image_mean: per channel (RGB), subtracted after rescaling.
        image_std: per channel (RGB), divided by after that.
        do_rescale: multiply by ``rescale_factor``.
        rescale_factor: brings 0..255 to the scale of mean and standard deviation.
        do_normalize: subtract and divide.
    """

    image_mean: Channels = (0.485, 0.456, 0.406)
    image_std: Channels = (0.229, 0.224, 0.225)
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True

    @property
    def mean(self) -> Channels:
        """What is subtracted from values on 0..255."""
        if self == IMAGENET:
            return MEAN  # the same numbers, without the rounding of a division
        return self._on_255(self.image_mean if self.do_normalize else (0.0, 0.0, 0.0))

    @property
    def std(self) -> Channels:
        """What values on 0..255 are divided by, after the mean is subtracted."""
        if self == IMAGENET:
            return STD
        return self._on_255(self.image_std if self.do_normalize else (1.0, 1.0, 1.0))

    def _on_255(self, channels: Channels) -> Channels:
        factor = self.rescale_factor if self.do_rescale else 1.0
        red, green, blue = channels
        return red / factor, green / factor, blue / factor


IMAGENET = Normalisation()


def normalisation_of(model: Any) -> Normalisation:
    """How a network's images are normalised: as its folder says, ImageNet's way without one."""
    found = getattr(model, "normalisation", IMAGENET)
    assert isinstance(found, Normalisation)
    return found
