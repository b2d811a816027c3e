"""The style, colours and names that figures share; matplotlib is imported when one is drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revt_hf.core.errors import printable
from revt_hf.core.outputs import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1b2129", "#59636f", "#dde1e7"
ACCENT, GREY = "#2f55d4", "#a9b2be"
# In the order of the report page.
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
_STYLE: Any = {
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
    # A $ in a name does not start a formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def colour(number: int) -> str:
    """The colour of a member by its index, as on the report page."""
    return COLOURS[number % len(COLOURS)]


@contextmanager
def figure(
    path: Path, width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> "Iterator[tuple[Figure, Any]]":
    """Yield a figure and its axes (rows, columns); write it as PNG, atomically, afterwards."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        # Without pyplot nothing depends on a display.
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing, drawing.subplots(rows, columns, squeeze=False, **grid)
        with atomic_file(path) as scratch:
            drawing.savefig(scratch, format="png", dpi=_DPI, facecolor="white")


def short_names(models: Sequence[str]) -> list[str]:
    """Paths without the folders they share, such as ``base/0`` for ``runs/camvid/base/0``."""
    parts = [Path(model).parts for model in models]
    shortest = min(map(len, parts))
    shared = 0
    while shared < shortest - 1 and len({part[shared] for part in parts}) == 1:
        shared += 1
    return [printable("/".join(part[shared:]).removeprefix("//")) for part in parts]


def legend_name(name: str) -> str:
    """A name for a legend, from which matplotlib would omit labels that start with ``_``."""
    return printable(f" {name}" if name.startswith("_") else name)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
