"""Cards for the rows of the paper's table: the model, the paper's numbers, how to reproduce it.

``python -m revt_hf.hub.table_cards`` writes them into ``model_cards``.
"""

import sys
from pathlib import Path

from huggingface_hub import ModelCardData

from revt_hf.core.outputs import write_text
from revt_hf.data.augment import method
from revt_hf.hub.cards import PAPER, Markdown, check_card, render_card, tags
from revt_hf.hub.evaluations import TASK
from revt_hf.results.published import ROWS, SOURCES, PublishedRow

_LINKS = {
    "paper": Markdown(PAPER),
    "original": Markdown("https://github.com/ifnspaml/revt-domain-generalization"),
}


def file_name(row: PublishedRow) -> str:
    name = "-".join(["revt", *map(str, row.methods)]) if row.is_merge else "baseline"
    return f"{row.source}-{row.size}-{name}.md"


def row_card(row: PublishedRow) -> str:
    """The card of one row; the paper's numbers are only in its text, marked as the paper's."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        # Nobody has published these weights with a license.
        license="unknown",
        tags=tags("segformer", row.is_merge, row.is_merge),
        base_model=None if row.is_merge else [f"nvidia/mit-{row.size}"],
        base_model_relation=None if row.is_merge else "finetune",
    )
    card = render_card(
        "table_card.md.jinja",
        **_LINKS,
        metadata=data.to_yaml(),
        row=row,
        source=SOURCES[row.source],
        methods=[str(method(number)) for number in row.methods],
        has_pixmix=any("pixmix" in method(number).steps() for number in row.methods),
    )
    check_card(card)
    return card


def table_cards() -> dict[str, str]:
    """Every file of the folder ``model_cards`` by its name."""
    rows = [(file_name(row), row) for row in ROWS]
    index = render_card("table_index.md.jinja", **_LINKS, rows=rows)
    return {"README.md": index, **{name: row_card(row) for name, row in rows}}


def write_table_cards(folder: Path) -> None:
    for name, card in table_cards().items():
        write_text(folder / name, card)


if __name__ == "__main__":
    write_table_cards(Path(sys.argv[1] if len(sys.argv) > 1 else "model_cards"))
