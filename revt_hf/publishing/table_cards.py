"""The cards of the paper's table: what each model is, the paper's numbers, how to make it.

``python -m revt_hf.publishing.table_cards`` writes them anew, into ``model_cards``.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCardData

from revt_hf.augment import method
from revt_hf.files import write_text
from revt_hf.publishing.card import PAPER, TAGS, TASK
from revt_hf.publishing.card_check import check_card

ORIGINAL = "https://github.com/ifnspaml/revt-domain-generalization"
_SOON = "will be added soon"
_DRIVE = "https://drive.google.com/drive/folders"
_NAMES = {"gta5": "GTA5", "synthia": "SYNTHIA"}
_TARGETS = ("cityscapes", "bdd100k")


@dataclass(frozen=True)
class Row:
    """One row of the table in the original's README.

    Attributes:
        size: of the SegFormer, such as ``b2``.
        source: the domain that it is trained on.
        methods: the paper's augmentation methods: one for a baseline, three for a ReVT.
        cityscapes: the paper's mIoU in percent.
        bdd: the paper's mIoU in percent.
        link: where the authors publish the weights; None where they do not.
    """

    size: str
    source: str
    methods: tuple[int, ...]
    cityscapes: float
    bdd: float
    link: str | None = None

    @property
    def is_merge(self) -> bool:
        """Whether it is a ReVT."""
        return len(self.methods) > 1

    @property
    def title(self) -> str:
        """A name for people."""
        where = f"SegFormer-{self.size.upper()}, {_NAMES[self.source]}"
        if not self.is_merge:
            return f"Baseline, {where}"
        return f"ReVT {{{', '.join(map(str, self.methods))}}}, {where}"

    @property
    def file_name(self) -> str:
        """Of its card."""
        name = "-".join(["revt", *map(str, self.methods)]) if self.is_merge else "baseline"
        return f"{self.source}-{self.size}-{name}.md"

    @property
    def recipe(self) -> str:
        """What its members are trained with, but for the augmentation method, as YAML."""
        values = {
            "model": {"start": f"nvidia/mit-{self.size}"},
            "source": {"domain": self.source, "data_dir": f"data/{self.source}"},
            "targets": [{"domain": name, "data_dir": f"data/{name}"} for name in _TARGETS],
        }
        return str(yaml.safe_dump(values, sort_keys=False)).rstrip()


ROWS = (
    Row("b2", "gta5", (1,), 41.73, 38.77),
    Row("b2", "gta5", (1, 4, 6), 46.27, 43.29),
    Row("b2", "gta5", (4, 5, 6), 45.55, 43.43),
    Row("b2", "synthia", (1,), 39.71, 29.76),
    Row("b2", "synthia", (1, 4, 6), 40.91, 34.53),
    Row("b2", "synthia", (4, 5, 6), 41.09, 35.18),
    Row("b3", "gta5", (1,), 43.92, 42.96),
    Row("b3", "gta5", (1, 4, 6), 48.33, 48.17),
    Row("b3", "gta5", (4, 5, 6), 47.95, 48.26),
    Row("b3", "synthia", (1,), 42.43, 33.33),
    Row("b3", "synthia", (1, 4, 6), 44.97, 38.65),
    Row("b3", "synthia", (4, 5, 6), 45.26, 38.73),
    Row(
        "b5", "gta5", (1,), 45.31, 43.32, f"{_DRIVE}/1clnJptm58PrLEGooB2cyUpbdqU0_d8Oq?usp=sharing"
    ),
    Row(
        *("b5", "gta5", (1, 4, 6), 49.96, 48.01),
        f"{_DRIVE}/1MuvBVyNveIxs5v011AdIp_i4dp5HU4sd?usp=sharing",
    ),
    Row(
        *("b5", "gta5", (4, 5, 6), 49.55, 48.11),
        f"{_DRIVE}/1hhmNDwGRAd_F9Rb198L2pPaDn0rlf3Ec?usp=sharing",
    ),
    Row("b5", "synthia", (1,), 45.07, 35.19),
    Row("b5", "synthia", (1, 4, 6), 46.28, 40.30),
    Row("b5", "synthia", (4, 5, 6), 45.08, 39.62),
)


def row_card(row: Row) -> str:
    """The card of one row; the paper's numbers are in its text only, marked as the paper's."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        # Nobody has published these weights with a licence.
        license="unknown",
        tags=[*TAGS, *(["model-merging", "revt"] if row.is_merge else [])],
        base_model=None if row.is_merge else [f"nvidia/mit-{row.size}"],
        base_model_relation=None if row.is_merge else "finetune",
    )
    body = "\n\n".join("\n".join(section) for section in _sections(row))
    text = f"---\n{data.to_yaml()}\n---\n\n{body}\n"
    check_card(text)
    return text


def index_text() -> str:
    """The text of ``README.md``: all cards, by their rows of the table."""
    lines = [
        "# Model cards",
        "",
        f"One card for each row of the table of the [paper]({PAPER}),",
        f"from the README of the [original implementation]({ORIGINAL}).",
        "revt_hf has published none of these models yet. The numbers, here and in the cards, are",
        "mIoU in percent, **the paper's, not measured by revt_hf**.",
        "",
        "| model, trained on | Cityscapes | BDD100K | the authors' weights |",
        "|---|---|---|---|",
        *(
            f"| [{row.title}]({row.file_name}) | {row.cityscapes:.2f} | {row.bdd:.2f} | "
            f"{f'[link]({row.link})' if row.link else 'not published'} |"
            for row in ROWS
        ),
        "",
        "Written by `python -m revt_hf.publishing.table_cards`; a test compares. The card of a",
        "model that is pushed is filled from its own measured results instead.",
    ]
    return "\n".join(lines) + "\n"


def table_cards() -> dict[str, str]:
    """Every file of the folder ``model_cards`` by its name."""
    return {"README.md": index_text(), **{row.file_name: row_card(row) for row in ROWS}}


def write_table_cards(folder: Path) -> None:
    """Write every card.

    Raises:
        UserError: the folder cannot be written.
    """
    for name, text in table_cards().items():
        write_text(folder / name, text)


def _sections(row: Row) -> Iterator[list[str]]:
    yield [f"# {row.title}"]
    if row.link:
        yield [
            f"**The authors publish weights**, as an mmsegmentation checkpoint: <{row.link}>. "
            "revt_hf has published none yet."
        ]
    else:
        yield [f'**Weights not published**: the original\'s README says "{_SOON}".']
    yield [_summary(row)]
    yield ["## The paper's numbers", "", *_numbers(row)]
    yield ["## Make it", "", *_commands(row)]
    yield ["## Differences", "", *_differences(row)]


def _summary(row: Row) -> str:
    size, where = row.size.upper(), f"the train split of {_NAMES[row.source]}"
    if not row.is_merge:
        return (
            f"A SegFormer-{size}, fine-tuned on {where} with augmentation method {_named(1)}: "
            f"what the paper compares [ReVT]({PAPER}) with."
        )
    named = ", ".join(_named(number) for number in row.methods)
    return (
        f"A [ReVT]({PAPER}): three SegFormer-{size}, fine-tuned on {where} with augmentation "
        f"methods {named}; their encoders are averaged, the decode head is that of the first."
    )


def _named(number: int) -> str:
    return f"{number} ({method(number).name})"


def _numbers(row: Row) -> Iterator[str]:
    yield "| unseen domain | mIoU (%), the paper's |"
    yield "|---|---|"
    yield f"| Cityscapes | {row.cityscapes:.2f} |"
    yield f"| BDD100K | {row.bdd:.2f} |"
    yield ""
    yield (
        f"From the table in the README of the [original implementation]({ORIGINAL}). revt_hf has "
        "not measured this model: the numbers are the paper's, and none stands in the metadata."
    )
    if row.source == "synthia":
        yield (
            "Whether they are over all 19 classes or the 16 that are used for SYNTHIA is not said; "
            "`revt evaluate --classes synthia16` prints the latter."
        )


def _commands(row: Row) -> Iterator[str]:
    name = f"{row.source}-{row.size}"
    yield f"Recipes of the paper's experiments are planned; until then, this as `{name}.yaml`:"
    yield from ("", "```yaml", row.recipe, "```", "", "```bash")
    for number in row.methods:
        yield (
            f"revt train {name}.yaml --set augmentation.method={number} "
            f"--output runs/{name}/{number}"
        )
    members = " ".join(f"runs/{name}/{number}" for number in row.methods)
    model = members
    if row.is_merge:
        model = "-".join([f"runs/{name}/revt", *map(str, row.methods)])
        yield f"revt merge {members} --output {model}"
    yield f"revt evaluate {model} --recipe {name}.yaml --json results.json"
    yield "```"


def _differences(row: Row) -> Iterator[str]:
    yield (
        "These commands do what the papers say. Where the original's code did something else "
        "(`train.loss`, `augmentation.published` and, on B5, the order of the steps), "
        "[docs/original.md](../docs/original.md) says how to do as it did."
    )
    if any("pixmix" in method(number).steps for number in row.methods):
        yield (
            "The original mixes in a set of fractals, revt_hf drawn pictures unless "
            "`augmentation.mixing` names a folder."
        )
    if row.is_merge:
        yield (
            "The original's scripts merge the same members in three orders, so with three decode "
            "heads, and average the scores."
        )


if __name__ == "__main__":
    write_table_cards(Path(sys.argv[1] if len(sys.argv) > 1 else "model_cards"))
