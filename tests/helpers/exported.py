"""Exports of a tiny domain."""

from pathlib import Path
from typing import Any

import datasets

from revt_hf.config.recipe import DomainSpec
from revt_hf.data_tools.export import ExportOptions, export_parquet

STREETS = DomainSpec(domain="streets", options={"images": 3, "val_images": 2, "size": [64, 128]})


def export(output: Path, *splits: str, spec: DomainSpec = STREETS, **options: Any) -> Path:
    """Export splits (``train`` if none is named) without progress bars."""
    return export_parquet(spec, splits or ("train",), output, ExportOptions(quiet=True, **options))


def load(folder: Path, split: str) -> Any:
    return datasets.load_dataset(str(folder), split=split)


def tables(folder: Path) -> list[Path]:
    return sorted((folder / "data").iterdir())
