"""Numbers that others published, each with its reference and protocol (``published.yaml``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from revt_hf.config.protocol import Protocol
from revt_hf.config.yaml_files import Section, read_yaml, validated
from revt_hf.core.errors import UserError

SOURCES = {"gta5": "GTA5", "synthia": "SYNTHIA"}
_NAMES = {**SOURCES, "urbansyn": "UrbanSyn", "cityscapes": "Cityscapes"}
REVT = "revt"
# How many labelled images the splits have that published numbers are on.
IMAGES = {"cityscapes/val": 500, "bdd100k/val": 1_000, "mapillary/val": 2_000, "acdc/val": 406}
_Score = Annotated[float, Field(ge=0, le=100)]


class PublishedRow(Section):
    """The published numbers of one model.

    Attributes:
        name: what ``--compare`` calls the method.
        method: the method as a reader knows it.
        reference: where the numbers are from.
        sources: the domains that it was trained on.
        miou: percent, over all 19 classes, by the label of the split.
        protocol: how it was tested; None if the reference does not say.
        second_hand: the reference was not read, only quotations of it.
        size, methods, link: of a row in the table of the original's README.
    """

    name: str
    method: str
    reference: str
    sources: tuple[str, ...]
    miou: dict[str, _Score]
    backbone: str | None = None
    protocol: Protocol | None = None
    second_hand: bool = False
    note: str = ""
    size: str | None = None
    methods: tuple[int, ...] = ()
    link: str | None = None

    @property
    def source(self) -> str:
        """The only domain that a row of the paper was trained on."""
        return self.sources[0]

    @property
    def is_merge(self) -> bool:
        return len(self.methods) > 1

    @property
    def title(self) -> str:
        trained = " + ".join(_NAMES.get(source, source) for source in self.sources)
        if self.size is None:
            quoted = ", second hand" if self.second_hand else ""
            return f"{self.method}, {self.backbone}, trained on {trained}{quoted}"
        where = f"SegFormer-{self.size.upper()}, {trained}"
        if not self.is_merge:
            return f"Baseline, {where}"
        return f"{self.method} {{{', '.join(map(str, self.methods))}}}, {where}"

    @property
    def tested(self) -> str:
        """Its test protocol in words."""
        return "protocol not known" if self.protocol is None else self.protocol.text

    def scores(self, classes: str | None = None) -> dict[str, float]:
        """The mIoU in percent by the domain's label; none for classes that it does not average."""
        # The paper does not say whether its SYNTHIA numbers average 16 or 19 classes.
        is_either = self.name == REVT and self.source == "synthia"
        if classes is not None and not (classes == "synthia16" and is_either):
            return {}
        return dict(self.miou)


def _read() -> tuple[PublishedRow, ...]:
    path = Path(__file__).with_suffix(".yaml")
    rows = []
    for group in read_yaml(path):
        common = {key: value for key, value in group.items() if key != "rows"}
        rows += [validated(PublishedRow, common | row, path) for row in group["rows"]]
    return tuple(rows)


PUBLISHED = _read()
# The table in the original's README.
ROWS = tuple(row for row in PUBLISHED if row.name == REVT)
DOMAINS = tuple(ROWS[0].scores())


def paper_row(source: str, size: str, methods: Sequence[int]) -> PublishedRow:
    """The row of a model; the order of the methods does not matter."""
    for row in ROWS:
        if (row.source, row.size, row.methods) == (source, size, tuple(sorted(methods))):
            return row
    wanted = f"{source}/{size}/{'-'.join(map(str, methods))}"
    known = ", ".join(f"{r.source}/{r.size}/{'-'.join(map(str, r.methods))}" for r in ROWS)
    raise UserError(f"the paper's table has no row {wanted}: it has {known}")


def compared_rows(names: str | None) -> list[PublishedRow]:
    """The rows of methods, named with commas between them; ``all`` is every one but the paper's."""
    others = [row for row in PUBLISHED if row.name != REVT]
    wanted = [] if names is None else [name.strip().casefold() for name in names.split(",")]
    known = list(dict.fromkeys(row.name for row in others))
    for name in wanted:
        if name not in (*known, "all"):
            hint = "; the paper's rows are added by --paper" if name == REVT else ""
            raise UserError(f"--compare '{name}': use {', '.join(known)} or all{hint}")
    return [row for row in others if row.name in wanted or "all" in wanted]
