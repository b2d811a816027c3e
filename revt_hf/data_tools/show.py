"""``revt data show`` and ``revt data list``: datasets for the eye."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from revt_hf.core.errors import counted
from revt_hf.core.outputs import check_output_file, check_suffix
from revt_hf.data.domains import DOMAINS, load_domain
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, NUM_CLASSES, colourise
from revt_hf.data_tools.verify import Verified
from revt_hf.results.sheets import Panel, contact_sheet, overlay

_COLUMNS = ("image", "train ids", "together")
_SHOWN_PROBLEMS = 20
_SHARING = {"yes": "yes", "no": "no", "confirm": "if you confirm the license"}


def show(
    name: str,
    split: str,
    output: Path,
    data_dir: Path | None = None,
    config: str | None = None,
    options: Mapping[str, Any] | None = None,
    images: int = 6,
    overwrite: bool = False,
) -> int:
    """Write a contact sheet (PNG): images spread over a split, with their coloured labels.

    Returns:
        How many images are on it.

    Raises:
        UserError: the data cannot be read, or ``output`` is no name for a PNG, or exists and
            ``overwrite`` is false.
    """
    check_suffix(output, ".png")
    check_output_file(output, overwrite, [data_dir])
    rows = load_domain(name, split, data_dir, config, options)
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
    """What is known of every domain, as JSON values."""
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
    """The same for the terminal; configs stand below a domain's name and kind."""
    table = Table(show_lines=True)
    table.add_column("domain", no_wrap=True)
    table.add_column("images", no_wrap=True)
    for heading in ("license", "where to get it", "may be passed on"):
        table.add_column(heading, overflow="fold")
    for row in listing():
        counts = "\n".join(f"{split} {count:,}" for split, count in row["images"].items())
        table.add_row(
            "\n".join([row["domain"], row["kind"], *(f"- {name}" for name in row["configs"])]),
            counts or "-",
            row["license"],
            row["download"],
            _SHARING[row["redistribution"]],
        )
    return table


def verified_text(result: Verified) -> str:
    """The result of :func:`verify` for the terminal."""
    lines = [f"{result.domain}: {result.found}", ""]
    width = max(map(len, result.splits))
    for split, count in result.splits.items():
        official = "" if count.expected is None else f" of {count.expected:,}"
        noun = "image" if count.images == 1 and not official else "images"
        lines.append(f"  {split:<{width}}  {count.images:>7,}{official} {noun}")
    total = int(result.pixels[:NUM_CLASSES].sum())
    if total:
        lines += ["", "  share of labelled pixels"]
        lines += [
            f"  {name:<14} {100 * result.pixels[train_id] / total:6.2f} %"
            for train_id, name in enumerate(CLASSES)
        ]
        ignored = int(result.pixels[IGNORE_INDEX])
        lines.append(f"  {'(ignored':<14} {100 * ignored / (ignored + total):6.2f} % of all)")
    lines += [""] + [f"note: {note}" for note in result.notes]
    for problem in result.problems[:_SHOWN_PROBLEMS]:
        lines.append(f"problem: {problem.file}: {problem.what}")
    more = len(result.problems) - _SHOWN_PROBLEMS
    if more > 0:
        lines.append(f"... and {more} more (--json FILE lists all)")
    lines.append(counted(len(result.problems), "problem") if result.problems else "no problems")
    return "\n".join(lines)
