"""Overlays and contact sheets."""

import numpy as np
import pytest
from PIL import Image

from revt_hf.core.errors import UserError
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX, TRAIN_ID
from revt_hf.results.sheets import Panel, contact_sheet, overlay


def flat(colour, height=20, width=40):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_overlay_mixes_the_palette_in_and_keeps_ignored_pixels_and_its_input():
    image = flat((100, 200, 50), 1, 2)
    labels = np.array([[TRAIN_ID["car"], TRAIN_ID["road"]]], dtype=np.uint8)
    out = overlay(image, labels, opacity=0.25)
    assert out.dtype == np.uint8
    # 0.75 * image + 0.25 * (0, 0, 142) and (128, 64, 128)
    assert out.tolist() == [[[75, 150, 73], [107, 166, 70]]]
    assert overlay(flat((0, 0, 0), 1, 2), labels)[0, 1].tolist() == [77, 38, 77]  # 0.6 of road
    out = overlay(image, np.array([[IGNORE_INDEX, 18]], dtype=np.uint8), opacity=1.0)
    assert out.tolist() == [[[100, 200, 50], CITYSCAPES.palette[18].tolist()]]
    assert image[0, 1].tolist() == [100, 200, 50]


@pytest.mark.parametrize(
    ("labels", "opacity", "message"),
    [
        (np.zeros((20, 41), np.uint8), 0.5, "do not fit"),
        (np.zeros((20, 40), np.int64), 0.5, "do not fit"),
        (np.full((20, 40), 19, np.uint8), 0.5, "label 19"),
        (np.zeros((20, 40), np.uint8), 1.5, "opacity"),
    ],
)
def test_overlay_refuses(labels, opacity, message):
    with pytest.raises(UserError, match=message):
        overlay(flat((0, 0, 0)), labels, opacity)
    with pytest.raises(UserError, match="panel 'grey'"):
        Panel("grey", np.zeros((4, 4), np.uint8))


def test_contact_sheet_lays_out_panels_and_legend(tmp_path):
    path = tmp_path / "new" / "sheet.png"
    rows = [
        [Panel("in", flat((250, 0, 0))), Panel("out", flat((0, 250, 0)))],
        [Panel("in", flat((0, 0, 250)))],
    ]
    contact_sheet(
        rows,
        ["in", "out"],
        ["", ""],
        {n: CITYSCAPES.by_name[n] for n in ("sky", "terrain")},
        path,
        panel_width=100,
    )
    with Image.open(path) as image:
        assert image.format == "PNG"
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape[1] == 20 + 100 + 10 + 100 + 20
    red, green, blue = (
        (sheet == colour).all(axis=-1) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    )
    top = np.nonzero(red)[0].min()
    for mask, left, above in ((red, 20, top), (green, 130, top), (blue, 20, top + 50 + 10)):
        ys, xs = np.nonzero(mask)
        # 40x20 images, scaled to 100x50
        assert (xs.min(), xs.max(), ys.min(), ys.max()) == (left, left + 99, above, above + 49)
        assert mask.sum() == 100 * 50
    assert (sheet[:top].min(axis=(1, 2)) < 100).any()  # the titles' ink
    for name in ("sky", "terrain"):
        where = np.nonzero((sheet == CITYSCAPES.palette[TRAIN_ID[name]]).all(axis=-1))
        assert where[0].size > 50
        assert where[0].min() > top + 110
    assert (sheet[-5:] == 255).all()


def test_contact_sheet_makes_room_for_row_titles_and_captions(tmp_path):
    def size(title, caption):
        path = tmp_path / "sheet.png"
        contact_sheet([[Panel(caption, flat((1, 2, 3)))]], ["in"], [title], {}, path, 100)
        with Image.open(path) as image:
            return image.size

    width, height = size("", "in")
    wider = size("night", "in")
    assert wider[0] > width and wider[1] == height
    assert size("", "frame 7")[1] > height
    assert size("", "")[1] == height


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [([], 100, "at least one row"), ([1, 0], 100, "at least one row"), ([1], 10, "panel width")],
)
def test_contact_sheet_refuses_and_leaves_nothing(tmp_path, rows, width, message):
    panels = [[Panel("in", flat((1, 2, 3)))] * count for count in rows]
    with pytest.raises(UserError, match=message):
        contact_sheet(panels, ["a"], [""] * len(rows), {}, tmp_path / "sheet.png", width)
    assert not list(tmp_path.iterdir())
