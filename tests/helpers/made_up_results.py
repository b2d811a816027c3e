"""Result files with made-up numbers."""

import json
from pathlib import Path
from typing import Any

from revt_hf.data.label_space import CLASSES
from revt_hf.evaluation.result import FORMAT, read_results
from revt_hf.results.layout import TableLayout
from revt_hf.results.tables import TableOptions, build_tables

PROTOCOL = {"max_size": [1024, 512], "window": None, "stride": None, "scales": [1.0], "flip": False}
NATIVE = {"protocol": {**PROTOCOL, "max_size": None}, "protocol_name": "native"}


def score(label: str, miou: float, **values: Any) -> dict[str, Any]:
    """The score on one split; a label that starts with ``town`` is the source's."""
    domain, _, split = label.partition("/")
    return {
        "label": label,
        "domain": domain,
        "config": None,
        "split": split,
        "is_source": domain == "town",
        "mIoU": miou,
        "aAcc": 90.0,
        "IoU": dict.fromkeys(CLASSES) | {"road": miou},
        "Acc": dict.fromkeys(CLASSES) | {"road": miou},
        "subsets": {"synthia16": miou + 1, "synthia13": None},
        "lost": None,
        "images": 500,
        "label_encoding": "train_ids",
        **values,
    }


def result(model: str, mious: dict[str, float], **values: Any) -> dict[str, Any]:
    """A whole result of an experiment; ``mious`` are given by the domain's label."""
    return {
        **dict.fromkeys(("ensemble", "size", "seed", "head", "paper", "selected", "cost")),
        "mapping": None,
        "model": model,
        "network_sha256": [f"sha of {model}"],
        "group": model.split("/")[0],
        "kind": "member",
        "protocol_name": "paper",
        "protocol": PROTOCOL,
        "checkpoints": [{"path": model, "sha256": None}],
        "scores": [score(label, miou) for label, miou in mious.items()],
        "provenance": {"recipe": {"anything": 1}, "versions": {"torch": "2"}, "seconds": 1.5},
        **values,
    }


def evaluated(model: str, scores: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """What ``revt evaluate`` gives: a result that belongs to no experiment."""
    return {"model": model, "protocol": PROTOCOL, "scores": scores, **values}


def written(folder: Path, *results: Any) -> list[Path]:
    """Each result, or list of results, in a file of its own."""
    paths = []
    for number, value in enumerate(results):
        paths.append(folder / f"{number:02}.json")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        inside = value if isinstance(value, list) else [value]
        paths[-1].write_text(json.dumps({"format": FORMAT, "results": inside}))
    return paths


def tables(folder: Path, *results: Any, **options: Any) -> list[TableLayout]:
    return build_tables(read_results(written(folder, *results)), TableOptions(**options))


def texts(table: TableLayout) -> list[list[str]]:
    heads = [heading.flat for heading in table.headings]
    return [heads, *([cell.text for cell in row] for row in table.rows)]


PAPER = {"source": "gta5", "size": "b5", "methods": [1, 4, 6]}
COST = {"parameters": 84_600_000, "flops": 110_200_000_000, "images_per_second": 4.25}

# ReVT: cityscapes 40, 44, 45 (mean 43, population std 2.16), bdd100k 30, 32, 34 (32, 1.63),
# their mean per network 35, 38, 39.5 (37.5, 1.87).
REVT = [
    result(
        f"revt/{seed}",
        {"cityscapes/val": cityscapes, "town/val": 70.0, "bdd100k/val": bdd},
        group="ReVT {1,4,6}",
        kind="merge",
        seed=seed,
        head="base",
        paper=PAPER,
        cost={**COST, "peak_mib": 901.4},
    )
    for seed, cityscapes, bdd in ((0, 40.0, 30.0), (1, 44.0, 32.0), (2, 45.0, 34.0))
]
BASE = [
    result("base/0", {"town/val": 71.0, "cityscapes/val": 41.0, "bdd100k/val": 33.0}, seed=0),
    result("base/1", {"town/val": 73.0, "cityscapes/val": 39.0, "bdd100k/val": 35.0}, seed=1),
]
ENSEMBLE = result("ensembles/all", {"town/val": 75.0, "cityscapes/val": 45.5}, kind="ensemble")
ENSEMBLE |= {"network_sha256": [], "checkpoints": []}
CHOSEN = result(
    "chosen/0",
    {"town/val": 73.0, "cityscapes/val": 45.0, "bdd100k/val": 34.0},
    kind="selection",
    selected={"on": ["town/val"], "target": False, "candidates": 5},
)
PEEKED = result(
    "peeked/0",
    {"town/val": 60.0, "cityscapes/val": 50.0, "bdd100k/val": 40.0},
    kind="selection",
    selected={"on": ["cityscapes/val"], "target": True, "candidates": 7},
)
# Not in the order of the table's rows: those go by kind.
ALL = [*REVT, PEEKED, ENSEMBLE, *BASE, CHOSEN]
