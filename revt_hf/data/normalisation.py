"""Input normalisation per RGB channel, on values 0..255; by default ImageNet's."""

from dataclasses import asdict, dataclass
from typing import Any

# ImageNet mean and standard deviation, with which every SegFormer of the original is trained.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

Channels = tuple[float, float, float]
_FLIP = "do_flip_channel_order"


@dataclass(frozen=True)
class Normalisation:
    """The fields of a ``preprocessor_config.json`` that decide the network's input values."""

    image_mean: Channels = (0.485, 0.456, 0.406)
    image_std: Channels = (0.229, 0.224, 0.225)
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    # The network takes blue, green, red: MobileViT's were trained so.
    do_flip_channel_order: bool = False

    def fields(self) -> dict[str, Any]:
        """Those of a ``preprocessor_config.json``; not every image processor can flip channels."""
        fields = asdict(self)
        return {key: value for key, value in fields.items() if value or key != _FLIP}

    @property
    def mean(self) -> Channels:
        """The mean on the scale 0..255."""
        return self._on_255(self.image_mean if self.do_normalize else (0.0, 0.0, 0.0), MEAN)

    @property
    def std(self) -> Channels:
        """The standard deviation on the scale 0..255."""
        return self._on_255(self.image_std if self.do_normalize else (1.0, 1.0, 1.0), STD)

    def _on_255(self, channels: Channels, imagenet: Channels) -> Channels:
        if self == IMAGENET:
            return imagenet  # the same numbers, without the rounding of a division
        factor = self.rescale_factor if self.do_rescale else 1.0
        red, green, blue = channels
        return red / factor, green / factor, blue / factor


IMAGENET = Normalisation()


def normalisation_of(model: Any) -> Normalisation:
    """The normalisation recorded in a model's folder; ImageNet's if there is none."""
    found = getattr(model, "normalisation", IMAGENET)
    assert isinstance(found, Normalisation)  # noqa: S101
    return found
