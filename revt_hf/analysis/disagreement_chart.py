"""The overview of the most disputed images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from revt_hf.analysis.disagreement import Scene
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, colourise
from revt_hf.results.sheets import Panel, contact_sheet

# For two different classes, three, and more.
_HEAT = np.array([[245, 166, 35], [208, 52, 44], [96, 20, 110]], dtype=np.uint8)
_DIMMED = 0.45
_COLUMNS = (
    "image",
    "ground truth",
    "members differ",
    "the merge where they do",
    "the merge",
)
_CAPTION = "{:.1f} % of pixels; 2 classes orange, 3 red"
_VERDICT = "right green, wrong red, no label white"


def draw_disagreement(scenes: Sequence[Scene], path: Path) -> None:
    """Draw image, ground truth, disputed pixels, what the merge makes of them, and its map.

    Disputed pixels are orange for two different classes, red for three, violet for more. Of what
    the merge makes of them, green is right, red wrong, white not labelled.

    Args:
        scenes: the most disputed images; at least one.
        path: the PNG.
    """
    rows = [
        [
            Panel(f"{scene.name}", scene.image),
            Panel(_COLUMNS[1], colourise(scene.label)),
            Panel(_CAPTION.format(scene.disputed * 100), _heat(scene)),
            Panel(_VERDICT, _verdict(scene)),
            Panel(_COLUMNS[4], colourise(scene.merged)),
        ]
        for scene in scenes
    ]
    seen = np.unique(np.concatenate([np.unique(scene.merged) for scene in scenes]))
    labelled = np.unique(np.concatenate([np.unique(scene.label) for scene in scenes]))
    present = sorted({int(value) for value in (*seen, *labelled) if value != IGNORE_INDEX})
    titles = [""] * len(rows)
    contact_sheet(rows, _COLUMNS, titles, [CLASSES[value] for value in present], path, 300)


def _dimmed(scene: Scene) -> NDArray[np.uint8]:
    grey = scene.image.mean(axis=2, keepdims=True)
    return np.repeat(grey * _DIMMED, 3, axis=2).astype(np.uint8)


def _heat(scene: Scene) -> NDArray[np.uint8]:
    shown = _dimmed(scene)
    disputed = scene.different > 1
    shown[disputed] = _HEAT[np.minimum(scene.different[disputed], 4) - 2]
    return shown


def _verdict(scene: Scene) -> NDArray[np.uint8]:
    shown = _dimmed(scene)
    disputed = scene.different > 1
    known = scene.label != IGNORE_INDEX
    right = scene.merged == scene.label
    shown[disputed & ~known] = (230, 230, 230)
    shown[disputed & known & right] = (46, 160, 67)
    shown[disputed & known & ~right] = (208, 52, 44)
    return shown
