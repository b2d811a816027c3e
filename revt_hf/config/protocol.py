"""The test protocol: how images are resized and which views of them are averaged."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from revt_hf.config.yaml_files import CropSide, Pixels, Section


class Protocol(Section):
    """The test protocol: how images are resized and which views of them are averaged.

    Images are resized to fit ``max_size`` (width, height), keeping their aspect ratio; null keeps
    the native size. With ``window`` and ``stride`` (pixels) the network sees square windows of the
    resized image. ``scales`` multiply the max size (or the native size); ``flip`` adds the
    mirrored image. The probabilities of all views are averaged.
    """

    max_size: tuple[Pixels, Pixels] | None = (1024, 512)
    window: CropSide | None = None
    stride: Pixels | None = None
    scales: Annotated[
        tuple[Annotated[float, Field(ge=0.01, le=100)], ...], Field(min_length=1, max_length=100)
    ] = (1.0,)
    flip: bool = False

    @property
    def views(self) -> int:
        """Number of views of each image, not counting windows."""
        return len(self.scales) * (2 if self.flip else 1)

    @property
    def preset(self) -> str | None:
        """Its name in ``PROTOCOLS``, if any."""
        return next((name for name, known in PROTOCOLS.items() if known == self), None)

    @property
    def text(self) -> str:
        """A summary such as ``1024x512, scales 0.5 1.0, flip``."""
        parts = ["native size" if self.max_size is None else "x".join(map(str, self.max_size))]
        if self.window is not None:
            parts.append(f"windows of {self.window} every {self.stride}")
        if self.scales != (1.0,):
            parts.append(f"scales {' '.join(map(str, self.scales))}")
        return ", ".join([*parts, *(["flip"] if self.flip else [])])

    @model_validator(mode="after")
    def _consistent(self) -> "Protocol":
        if (self.window is None) != (self.stride is None):
            raise ValueError("give window and stride together, or neither")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"stride {self.stride} is larger than window {self.window}: pixels between the "
                "windows would be left out"
            )
        return self


# "paper" is the original's test protocol, "slide" its B3 *_org_size_inference.py; the scales are
# those of mmsegmentation's MultiScaleFlipAug.
PROTOCOLS = {
    "paper": Protocol(),
    "native": Protocol(max_size=None),
    "slide": Protocol(max_size=None, window=1024, stride=768),
    "multi-scale": Protocol(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True),
}


def named_protocol(name: str) -> Protocol:
    """The protocol of that name."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol '{name}': use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


# A section, or the name of a protocol.
ProtocolChoice = Annotated[
    Protocol,
    BeforeValidator(
        lambda value: named_protocol(value) if isinstance(value, str) else value,
        json_schema_input_type=Protocol | Literal[*PROTOCOLS],
    ),
]
