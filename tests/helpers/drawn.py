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


def _cell_statistics(images: list[np.ndarray]) -> np.ndarray:
    """Mean and deviation of each cell of 32x32 pixels: (N, 2, H / 32, W / 32, 3), float32."""
    cells = np.stack(images).reshape(len(images), 128 // _CELL, _CELL, 256 // _CELL, _CELL, 3)
    return np.stack([cells.mean(axis=(2, 4)), cells.std(axis=(2, 4))], 1).astype(np.float32)


def street_values() -> dict[str, np.ndarray]:
    """The statistics of two scenes in every style, and the labels' pixels of each value."""
    values = {}
    for style in STYLES:
        images, labels = zip(*(render(seed, style, 128, 256) for seed in _SCENES), strict=True)
        values[f"streets/{style}"] = _cell_statistics(images)
    columns = [np.split(label, 256 // _CELL, axis=1) for label in labels]
    counts = [[np.bincount(one.ravel(), minlength=256) for one in each] for each in columns]
    return {"streets/label": np.array(counts), **values}


def corruption_values() -> dict[str, np.ndarray]:
    image, _ = render(7, "source", 128, 256)
    return {
        f"corruptions/{kind}": _cell_statistics([corrupt(image, "a", kind, s) for s in SEVERITIES])
        for kind in KINDS
    }


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
