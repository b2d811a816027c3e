"""The cards of the paper's table: what each model is, the paper's numbers, how to make it.

``python -m revt_hf.hub.table_cards`` writes them anew, into ``model_cards``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import ModelCardData

from revt_hf.core.outputs import write_text
from revt_hf.data.augment import method
from revt_hf.hub.card_check import check_card
from revt_hf.hub.model_card import PAPER, TAGS, TASK
from revt_hf.results.paper import ROWS, SOURCES, PaperRow

ORIGINAL = "https://github.com/ifnspaml/revt-domain-generalization"
_SOON = "will be added soon"
_TARGETS = ("cityscapes", "bdd100k")


def file_name(row: PaperRow) -> str:
    """The name of a row's card."""
    name = "-".join(["revt", *map(str, row.methods)]) if row.is_merge else "baseline"
    return f"{row.source}-{row.size}-{name}.md"


def row_card(row: PaperRow) -> str:
    """The card of one row; the paper's numbers are in its text only, marked as the paper's."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        # Nobody has published these weights with a license.
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
            f"| [{row.title}]({file_name(row)}) | {row.cityscapes:.2f} | {row.bdd:.2f} | "
            f"{f'[link]({row.link})' if row.link else 'not published'} |"
            for row in ROWS
        ),
        "",
        "Written by `python -m revt_hf.hub.table_cards`; a test compares. The card of a",
        "model that is pushed is filled from its own measured results instead.",
    ]
    return "\n".join(lines) + "\n"


def table_cards() -> dict[str, str]:
    """Every file of the folder ``model_cards`` by its name."""
    return {"README.md": index_text(), **{file_name(row): row_card(row) for row in ROWS}}


def write_table_cards(folder: Path) -> None:
    """Write every card.

    Raises:
        UserError: the folder cannot be written.
    """
    for name, text in table_cards().items():
        write_text(folder / name, text)


def _sections(row: PaperRow) -> Iterator[list[str]]:
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


def _summary(row: PaperRow) -> str:
    size, where = row.size.upper(), f"the train split of {SOURCES[row.source]}"
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
    return str(method(number))


def _numbers(row: PaperRow) -> Iterator[str]:
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


def _recipe(row: PaperRow) -> str:
    """What a row's members are trained with, but for the augmentation method, as YAML."""
    values = {
        "model": {"init": f"nvidia/mit-{row.size}"},
        "source": {"domain": row.source, "data_dir": f"data/{row.source}"},
        "targets": [{"domain": name, "data_dir": f"data/{name}"} for name in _TARGETS],
    }
    return str(yaml.safe_dump(values, sort_keys=False)).rstrip()


def _commands(row: PaperRow) -> Iterator[str]:
    name = f"{row.source}-{row.size}"
    yield f"Recipes of the paper's experiments are planned; until then, this as `{name}.yaml`:"
    yield from ("", "```yaml", _recipe(row), "```", "", "```bash")
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


def _differences(row: PaperRow) -> Iterator[str]:
    yield (
        "These commands do what the papers say. Where the original's code did something else "
        "(`train.loss`, `augmentation.paper_code` and, on B5, the order of the steps), "
        "[docs/original.md](../docs/original.md) says how to do as it did."
    )
    if any("pixmix" in method(number).steps() for number in row.methods):
        yield (
            "The original mixes in a set of fractals, revt_hf drawn images unless "
            "`augmentation.mixing` names a folder."
        )
    if row.is_merge:
        yield (
            "The original's scripts merge the same members in three orders, so with three decode "
            "heads, and average the scores."
        )


if __name__ == "__main__":
    write_table_cards(Path(sys.argv[1] if len(sys.argv) > 1 else "model_cards"))
