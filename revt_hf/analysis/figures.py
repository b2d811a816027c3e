"""What all diagnoses' figures have in common; matplotlib is imported when the first is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revt_hf.core.errors import printable
from revt_hf.core.outputs import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1b2129", "#59636f", "#dde1e7"
ACCENT, GREY = "#2f55d4", "#a9b2be"
# The report page's, in its order.
COLOURS = (
    "#d9660a",
    "#14866a",
    "#bf3f8a",
    "#a37a00",
    "#7b4fb5",
    "#11849c",
    "#c23a3a",
    "#65761a",
)
_DPI = 110
_STYLE = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "legend.frameon": False,
    "text.color": INK,
    # A $ in a name is no formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def colour(number: int) -> str:
    """The colour of the member with that number (from 0), as on the report page."""
    return COLOURS[number % len(COLOURS)]


def figure(
    path: Path, width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> "_Drawing":
    """A figure that is written as PNG, atomically, when the ``with`` block ends.

    Args:
        path: the PNG.
        width: in inches.
        height: in inches.
        rows: of axes.
        columns: of axes.
        grid: further arguments of ``Figure.subplots``.

    Returns:
        A context manager that gives the figure and its axes (rows, columns).
    """
    return _Drawing(path, (width, height), {"nrows": rows, "ncols": columns, **grid})


class _Drawing:
    def __init__(self, path: Path, size: tuple[float, float], grid: dict[str, Any]) -> None:
        self._path, self._size, self._grid = path, size, grid

    def __enter__(self) -> "tuple[Figure, Any]":
        import matplotlib
        from matplotlib.figure import Figure

        self._style = matplotlib.rc_context(_STYLE)
        self._style.__enter__()
        # Without pyplot nothing depends on a display.
        self._figure = Figure(figsize=self._size, layout="constrained")
        return self._figure, self._figure.subplots(**self._grid, squeeze=False)

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        try:
            if kind is None:
                with atomic_file(self._path) as scratch:
                    self._figure.savefig(scratch, format="png", dpi=_DPI, facecolor="white")
        finally:
            self._style.__exit__(kind, value, trace)


def short_names(models: Sequence[str]) -> list[str]:
    """Paths without the folders that they share, such as ``base/0`` of ``runs/camvid/base/0``."""
    parts = [Path(model).parts for model in models]
    shortest = min(map(len, parts))
    shared = 0
    while shared < shortest - 1 and len({part[shared] for part in parts}) == 1:
        shared += 1
    return [printable("/".join(part[shared:]).removeprefix("//")) for part in parts]


def legend_name(name: str) -> str:
    """A name as a label: matplotlib leaves those out of legends that start with a ``_``."""
    return printable(f" {name}" if name.startswith("_") else name)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns: the first to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
