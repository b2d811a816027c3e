"""The table in the original's README."""

from collections.abc import Sequence
from dataclasses import dataclass

from revt_hf.core.errors import UserError

SOURCES = {"gta5": "GTA5", "synthia": "SYNTHIA"}


@dataclass(frozen=True)
class PaperRow:
    """One row of the table in the original's README."""

    size: str
    source: str
    methods: tuple[int, ...]
    cityscapes: float
    bdd: float
    link: str | None = None

    @property
    def is_merge(self) -> bool:
        return len(self.methods) > 1

    @property
    def title(self) -> str:
        where = f"SegFormer-{self.size.upper()}, {SOURCES[self.source]}"
        if not self.is_merge:
            return f"Baseline, {where}"
        return f"ReVT {{{', '.join(map(str, self.methods))}}}, {where}"

    def scores(self, classes: str | None = None) -> dict[str, float]:
        """The mIoU in percent by the domain's label; none for classes that it does not average."""
        # The paper does not say whether its SYNTHIA numbers average 16 or 19 classes.
        if classes is not None and (classes, self.source) != ("synthia16", "synthia"):
            return {}
        return {"cityscapes/val": self.cityscapes, "bdd100k/val": self.bdd}


def _drive(folder: str) -> str:
    return f"https://drive.google.com/drive/folders/{folder}?usp=sharing"


# Nothing here was measured by revt_hf.
ROWS = (
    PaperRow("b2", "gta5", (1,), 41.73, 38.77),
    PaperRow("b2", "gta5", (1, 4, 6), 46.27, 43.29),
    PaperRow("b2", "gta5", (4, 5, 6), 45.55, 43.43),
    PaperRow("b2", "synthia", (1,), 39.71, 29.76),
    PaperRow("b2", "synthia", (1, 4, 6), 40.91, 34.53),
    PaperRow("b2", "synthia", (4, 5, 6), 41.09, 35.18),
    PaperRow("b3", "gta5", (1,), 43.92, 42.96),
    PaperRow("b3", "gta5", (1, 4, 6), 48.33, 48.17),
    PaperRow("b3", "gta5", (4, 5, 6), 47.95, 48.26),
    PaperRow("b3", "synthia", (1,), 42.43, 33.33),
    PaperRow("b3", "synthia", (1, 4, 6), 44.97, 38.65),
    PaperRow("b3", "synthia", (4, 5, 6), 45.26, 38.73),
    PaperRow("b5", "gta5", (1,), 45.31, 43.32, _drive("1clnJptm58PrLEGooB2cyUpbdqU0_d8Oq")),
    PaperRow("b5", "gta5", (1, 4, 6), 49.96, 48.01, _drive("1MuvBVyNveIxs5v011AdIp_i4dp5HU4sd")),
    PaperRow("b5", "gta5", (4, 5, 6), 49.55, 48.11, _drive("1hhmNDwGRAd_F9Rb198L2pPaDn0rlf3Ec")),
    PaperRow("b5", "synthia", (1,), 45.07, 35.19),
    PaperRow("b5", "synthia", (1, 4, 6), 46.28, 40.30),
    PaperRow("b5", "synthia", (4, 5, 6), 45.08, 39.62),
)
DOMAINS = tuple(ROWS[0].scores())


def paper_row(source: str, size: str, methods: Sequence[int]) -> PaperRow:
    """The row of a model; the order of the methods does not matter."""
    for row in ROWS:
        if (row.source, row.size, row.methods) == (source, size, tuple(sorted(methods))):
            return row
    wanted = f"{source}/{size}/{'-'.join(map(str, methods))}"
    known = ", ".join(f"{r.source}/{r.size}/{'-'.join(map(str, r.methods))}" for r in ROWS)
    raise UserError(f"the paper's table has no row {wanted}: it has {known}")
