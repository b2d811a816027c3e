"""Overlays and contact sheets."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from revt_hf.core.errors import UserError
from revt_hf.data.labels import IGNORE_INDEX, PALETTE, TRAIN_ID
from revt_hf.results.sheets import Panel, contact_sheet, overlay


def flat(colour: tuple[int, int, int], height: int = 20, width: int = 40) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_overlay_mixes_the_palette_in() -> None:
    image = flat((100, 200, 50), 1, 2)
    labels = np.array([[TRAIN_ID["car"], TRAIN_ID["road"]]], dtype=np.uint8)
    out = overlay(image, labels, opacity=0.25)
    assert out.dtype == np.uint8
    # 0.75 * image + 0.25 * (0, 0, 142) and (128, 64, 128)
    assert out.tolist() == [[[75, 150, 73], [107, 166, 70]]]
    assert overlay(flat((0, 0, 0), 1, 2), labels)[0, 1].tolist() == [77, 38, 77]  # 0.6 of road


def test_overlay_keeps_ignored_pixels_and_its_input() -> None:
    image = flat((9, 8, 7), 1, 2)
    labels = np.array([[IGNORE_INDEX, 18]], dtype=np.uint8)
    out = overlay(image, labels, opacity=1.0)
    assert out[0, 0].tolist() == [9, 8, 7]
    assert out[0, 1].tolist() == PALETTE[18].tolist()
    assert image[0, 1].tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    ("labels", "opacity", "message"),
    [
        (np.zeros((20, 41), np.uint8), 0.5, "do not fit"),
        (np.zeros((20, 40), np.int64), 0.5, "do not fit"),
        (np.full((20, 40), 19, np.uint8), 0.5, "label 19"),
        (np.zeros((20, 40), np.uint8), 1.5, "opacity"),
    ],
)
def test_overlay_refuses(labels: NDArray[np.uint8], opacity: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        overlay(flat((0, 0, 0)), labels, opacity)
    with pytest.raises(UserError, match="panel 'grey'"):
        Panel("grey", np.zeros((4, 4), np.uint8))


def test_contact_sheet_lays_out_panels_and_legend(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    rows = [
        [Panel("in", flat((250, 0, 0))), Panel("out", flat((0, 250, 0)))],
        [Panel("in", flat((0, 0, 250)))],
    ]
    contact_sheet(rows, ["in", "out"], ["", ""], ["sky", "terrain"], path, panel_width=100)
    with Image.open(path) as image:
        assert image.format == "PNG"
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape[1] == 20 + 100 + 10 + 100 + 20
    red, green, blue = (
        (sheet == colour).all(axis=-1) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    )
    for mask, left in ((red, 20), (green, 130), (blue, 20)):
        ys, xs = np.nonzero(mask)
        # 40x20 images, scaled to 100x50
        assert (xs.min(), xs.max()) == (left, left + 99)
        assert ys.max() - ys.min() == 49
        assert mask.sum() == 100 * 50
    top = np.nonzero(red)[0].min()
    assert np.nonzero(green)[0].min() == top
    assert np.nonzero(blue)[0].min() == top + 50 + 10
    assert (sheet[:top].min(axis=(1, 2)) < 100).any()  # the titles' ink
    bottom = np.nonzero(blue)[0].max()
    for name in ("sky", "terrain"):
        where = np.nonzero((sheet == PALETTE[TRAIN_ID[name]]).all(axis=-1))
        assert where[0].size > 50
        assert where[0].min() > bottom
    assert (sheet[-5:] == 255).all()


def test_contact_sheet_makes_room_for_row_titles_and_captions(tmp_path: Path) -> None:
    def size(title: str, caption: str) -> tuple[int, int]:
        path = tmp_path / "sheet.png"
        contact_sheet([[Panel(caption, flat((1, 2, 3)))]], ["in"], [title], [], path, 100)
        with Image.open(path) as image:
            return image.size

    plain = size("", "in")
    assert size("night", "in")[0] > plain[0]
    assert size("night", "in")[1] == plain[1]
    assert size("", "frame 7")[1] > plain[1]
    assert size("", "")[1] == plain[1]


def test_contact_sheet_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    row = [Panel("in", flat((1, 2, 3)))]
    path = tmp_path / "sheet.png"
    for rows, width, message in (
        ([], 100, "at least one row"),
        ([row, []], 100, "at least one row"),
        ([row], 10, "panel width"),
    ):
        with pytest.raises(UserError, match=message):
            contact_sheet(rows, ["a"], [""] * len(rows), [], path, width)
    assert not list(tmp_path.iterdir())
