"""Label maps over images, and contact sheets of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from revt_hf.core.errors import UserError, printable
from revt_hf.core.outputs import atomic_file
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX, Colour, LabelSpace

Font = ImageFont.FreeTypeFont

_LANCZOS = Image.Resampling.LANCZOS

_INK = (28, 32, 38)
_MUTED = (96, 104, 114)
_EDGE = (208, 213, 219)
_MARGIN = 20
_GAP = 10
_TEXT_GAP = 8


@dataclass(frozen=True, eq=False)
class Panel:
    title: str
    image: NDArray[np.uint8]

    def __post_init__(self) -> None:
        _check_image(self.image, f"image of panel '{self.title}'")


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    opacity: float = 0.6,
    space: LabelSpace = CITYSCAPES,
) -> NDArray[np.uint8]:
    """Lay the colours of a label map (H, W) over an image (H, W, 3), both uint8; 255 keeps it."""
    _check_image(image, "image")
    if labels.shape != image.shape[:2] or labels.dtype != np.uint8:
        raise UserError(
            f"labels {labels.shape} {labels.dtype} do not fit an image {image.shape}: "
            "they must be uint8 of the same height and width"
        )
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity {opacity} is not in 0..1")
    ignored = labels == IGNORE_INDEX
    unknown = labels[~ignored & (labels >= len(space))]
    if unknown.size:
        raise UserError(f"label {int(unknown[0])} is neither a class id nor {IGNORE_INDEX}")
    share = np.where(ignored, 0.0, opacity).astype(np.float32)[..., None]
    blend = image + share * (space.colourise(labels).astype(np.float32) - image)
    return np.rint(blend).astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[Panel]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    legend_colours: Mapping[str, Colour],
    path: Path,
    panel_width: int = 400,
) -> None:
    """Write a grid of images with titles, captions and a colour legend as PNG, atomically."""
    if not rows or not all(rows):
        raise UserError("a contact sheet needs at least one row, and an image in every row")
    if panel_width < 64:
        raise UserError(f"panel width {panel_width} is too small: use at least 64 pixels")
    font = _font("DejaVuSans.ttf", max(13, panel_width // 22))
    bold = _font("DejaVuSans-Bold.ttf", max(14, panel_width // 20))
    line = _line_height(bold)
    gutter = max(len(_wrap(title, bold, panel_width)) for title in row_titles) * line
    left = _MARGIN + (gutter + _TEXT_GAP if any(row_titles) else 0)
    lefts = [left + column * (panel_width + _GAP) for column in range(len(column_titles))]
    width = lefts[-1] + panel_width + _MARGIN
    headings = [_wrap(title, bold, panel_width) for title in column_titles]
    top = _MARGIN + max(map(len, headings)) * line + _TEXT_GAP
    images = [[_scaled(panel, panel_width) for panel in row] for row in rows]
    captions = [
        [
            [] if panel.title == heading else _wrap(panel.title, font, panel_width)
            for panel, heading in zip(row, column_titles, strict=False)
        ]
        for row in rows
    ]
    texts = [max(map(len, row)) * _line_height(font) for row in captions]
    inner = [max(image.height for image in row) for row in images]
    heights = [
        image + bool(text) * (text + _TEXT_GAP) for image, text in zip(inner, texts, strict=True)
    ]
    legend = _legend(legend_colours, font, width - 2 * _MARGIN)
    bottom = top + sum(heights) + (len(rows) - 1) * _GAP
    height = bottom + (_GAP * 2 + legend.height if legend else 0) + _MARGIN

    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for x, heading in zip(lefts, headings, strict=True):
        above = top - _TEXT_GAP - len(heading) * line
        _centred(draw, heading, bold, x + panel_width // 2, above, _INK)
    y = top
    for number, row_title in enumerate(row_titles):
        _upwards(sheet, _wrap(row_title, bold, panel_width), bold, y, inner[number])
        for x, image, caption in zip(lefts, images[number], captions[number], strict=False):
            sheet.paste(image, (x, y))
            below = y + inner[number] + _TEXT_GAP // 2
            _centred(draw, caption, font, x + panel_width // 2, below, _MUTED)
        y += heights[number] + _GAP
    if legend:
        sheet.paste(legend, (_MARGIN, bottom + 2 * _GAP))
    with atomic_file(path) as scratch:
        sheet.save(scratch, format="PNG", optimize=True)


def _scaled(panel: Panel, width: int) -> Image.Image:
    image = Image.fromarray(panel.image)
    return image.resize((width, max(1, round(image.height * width / image.width))), _LANCZOS)


def legend_strip(classes: Mapping[str, Colour], width: int) -> NDArray[np.uint8]:
    """The colours of classes with their names, (H, width, 3), uint8, to go below an image."""
    legend = _legend(classes, _strip_font(width), width)
    assert legend is not None  # noqa: S101
    strip = Image.new("RGB", (width, legend.height + _TEXT_GAP), "white")
    strip.paste(legend, (0, _TEXT_GAP))
    return np.asarray(strip)


def title_strip(titles: Sequence[str], width: int) -> NDArray[np.uint8]:
    """Titles, (H, width x titles, 3), uint8, to go above images side by side; H is even."""
    font = _strip_font(width)
    height = 2 * ((_line_height(font) + _TEXT_GAP) // 2)
    strip = Image.new("RGB", (width * len(titles), height), "white")
    for number, title in enumerate(titles):
        cell = Image.new("RGB", (width, height), "white")
        _centred(ImageDraw.Draw(cell), [title], font, width // 2, _TEXT_GAP // 2, _INK)
        strip.paste(cell, (number * width, 0))
    return np.asarray(strip)


def _strip_font(width: int) -> Font:
    return _font("DejaVuSans.ttf", min(max(11, width // 45), 28))


def _check_image(image: NDArray[np.uint8], what: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(f"{what}: {image.shape} {image.dtype} is not (height, width, 3) uint8")


def _font(name: str, size: int) -> Font:
    # matplotlib ships DejaVu; Pillow's own default font lacks most letters beyond ASCII.
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _line_height(font: Font) -> int:
    ascent, descent = font.getmetrics()
    return ascent + descent


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines of ``text`` that are at most ``width`` pixels wide, as far as its words allow."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _centred(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    font: Font,
    middle: int,
    top: int,
    colour: Colour,
) -> None:
    for number, text in enumerate(lines):
        draw.text((middle, top + number * _line_height(font)), text, colour, font, anchor="ma")


def _upwards(sheet: Image.Image, lines: Sequence[str], font: Font, top: int, height: int) -> None:
    if not lines:
        return
    length = max(round(font.getlength(text)) for text in lines) + 2
    strip = Image.new("RGB", (length, len(lines) * _line_height(font)), "white")
    _centred(ImageDraw.Draw(strip), lines, font, length // 2, 0, _INK)
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(strip, (_MARGIN, top + (height - strip.height) // 2))


def _legend(classes: Mapping[str, Colour], font: Font, width: int) -> Image.Image | None:
    """Swatches with names, as many per line as fit, the lines centred."""
    classes = {printable(name): colour for name, colour in classes.items()}
    if not classes:
        return None
    line = _line_height(font)
    pitch = line + _TEXT_GAP
    sizes = {name: line + 6 + round(font.getlength(name)) + 18 for name in classes}
    lines: list[list[str]] = [[]]
    for name in classes:
        if lines[-1] and sum(sizes[other] for other in lines[-1]) + sizes[name] > width:
            lines.append([])
        lines[-1].append(name)
    legend = Image.new("RGB", (width, len(lines) * pitch), "white")
    draw = ImageDraw.Draw(legend)
    for number, names in enumerate(lines):
        x = max(0, (width - sum(sizes[name] for name in names) + 18) // 2)
        for name in names:
            box = (x, number * pitch, x + line, number * pitch + line)
            draw.rectangle(box, fill=classes[name], outline=_EDGE)
            draw.text((x + line + 6, number * pitch), name, _INK, font)
            x += sizes[name]
    return legend
