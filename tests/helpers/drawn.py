"""Coarse statistics of drawn and corrupted images, and their golden values.

Means and deviations of an image's cells move when a style or a corruption changes, not with what
one processor or OpenCV version rounds to the other side. After a change that is meant, raise
``STREETS_VERSION`` or ``CORRUPTIONS_VERSION``, then write new values:

    python -m tests.helpers.drawn
"""

import numpy as np

from revt_hf.data.domains.corruptions import CORRUPTIONS_VERSION, KINDS, SEVERITIES, corrupt
from revt_hf.data.domains.streets import STREETS_VERSION, STYLES, render
from tests.helpers.golden import ROOT

GOLDEN = ROOT / "tests" / "golden" / "drawn.npz"
VERSIONS = {"streets": STREETS_VERSION, "corruptions": CORRUPTIONS_VERSION}
# Grey levels. Without AVX2 the statistics move by 0.001.
TOLERANCE = 0.02
_SCENES = (0, 1_000_001)
_CELL = 32


def cell_statistics(image: np.ndarray) -> np.ndarray:
    """Mean and deviation of each cell of 32x32 pixels: (2, H / 32, W / 32, 3), float32."""
    height, width, channels = image.shape
    cells = image.reshape(height // _CELL, _CELL, width // _CELL, _CELL, channels)
    return np.stack([cells.mean(axis=(1, 3)), cells.std(axis=(1, 3))]).astype(np.float32)


def class_counts(label: np.ndarray) -> np.ndarray:
    """Pixels of each value in each column of cells: (W / 32, 256), int32."""
    columns = np.split(label, label.shape[1] // _CELL, axis=1)
    return np.stack([np.bincount(column.ravel(), minlength=256) for column in columns])


def street_values() -> dict[str, np.ndarray]:
    """The statistics of two scenes in every style, and their labels'."""
    values = {"streets/label": np.stack([class_counts(_scene(s, "source")[1]) for s in _SCENES])}
    for style in STYLES:
        images = [_scene(seed, style)[0] for seed in _SCENES]
        values[f"streets/{style}"] = np.stack([cell_statistics(image) for image in images])
    return values


def corruption_values() -> dict[str, np.ndarray]:
    """The statistics of a scene in every kind and severity of corruption."""
    image = np.ascontiguousarray(_scene(7, "source")[0])
    return {
        f"corruptions/{kind}": np.stack(
            [cell_statistics(corrupt(image, "a", kind, severity)) for severity in SEVERITIES]
        )
        for kind in KINDS
    }


def _scene(seed: int, style: str) -> tuple[np.ndarray, np.ndarray]:
    return render(seed, style, 128, 256)


def _write() -> None:
    values = {**street_values(), **corruption_values()}
    if GOLDEN.exists():
        before = dict(np.load(GOLDEN))
        for name, version in VERSIONS.items():
            same = all(np.array_equal(before[k], v) for k, v in values.items() if name in k)
            if not same and version == before[f"version/{name}"]:
                raise SystemExit(f"the pixels of {name} have changed: raise its version first")
    versions = {f"version/{name}": np.array(version) for name, version in VERSIONS.items()}
    np.savez_compressed(GOLDEN, **values, **versions)


if __name__ == "__main__":
    _write()
