"""Show datasets: a contact sheet of one, and a table of all."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from revt_hf.config.recipe import DomainSpec
from revt_hf.core.outputs import check_output_file, check_suffix
from revt_hf.data.domains import DOMAINS, load_spec
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, colourise
from revt_hf.results.sheets import Panel, contact_sheet, overlay

_COLUMNS = ("image", "train ids", "together")
_SHARING = {"yes": "yes", "no": "no", "confirm": "if you confirm the license"}


def show(
    spec: DomainSpec, split: str, output: Path, images: int = 6, overwrite: bool = False
) -> int:
    """Write a contact sheet (PNG) of images spread over a split, and return their number."""
    check_suffix(output, ".png")
    check_output_file(output, overwrite, [spec.data_dir])
    rows = load_spec(spec, split)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(images, len(rows))).round().astype(int))
    sheet, names = [], []
    classes: set[int] = set()
    for index in chosen:
        row = rows[int(index)]
        image, label = row["image"], row["label"]
        panels = (image, colourise(label), overlay(image, label))
        sheet.append([Panel(title, panel) for title, panel in zip(_COLUMNS, panels, strict=True)])
        names.append(row["name"])
        classes |= set(np.unique(label).tolist()) - {IGNORE_INDEX}
    legend = [CLASSES[train_id] for train_id in sorted(classes)]
    contact_sheet(sheet, _COLUMNS, names, legend, output)
    return len(sheet)


def listing() -> list[dict[str, Any]]:
    """The facts about every domain, as JSON values."""
    return [
        {
            "domain": domain.name,
            "kind": domain.facts.kind,
            "configs": list(domain.configs),
            "images": dict(domain.facts.images),
            "license": domain.facts.license,
            "download": domain.facts.download,
            "redistribution": domain.facts.sharing.allowed,
            "redistribution_reason": domain.facts.sharing.reason,
        }
        for domain in DOMAINS.values()
    ]


def listing_table() -> Table:
    """The same for the terminal."""
    table = Table(show_lines=True)
    table.add_column("domain", no_wrap=True)
    table.add_column("images", no_wrap=True)
    # One wide column: names of licenses and archives do not fit into narrow ones.
    table.add_column("terms", overflow="fold")
    for row in listing():
        counts = "\n".join(f"{split} {count:,}" for split, count in row["images"].items())
        table.add_row(
            "\n".join([row["domain"], row["kind"], *(f"- {name}" for name in row["configs"])]),
            counts or "-",
            f"license: {row['license']}\ndownload: {row['download']}\n"
            f"redistribution: {_SHARING[row['redistribution']]}",
        )
    return table
