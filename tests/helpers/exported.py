"""Exports of a tiny domain."""

from pathlib import Path
from typing import Any

import datasets

from revt_hf.data_tools.export import Export

STREETS = {"images": 3, "val_images": 2, "size": [64, 128]}


def streets(*splits: str, **changes: Any) -> Export:
    values = {"options": STREETS, "data_dir": None, "max_size": None, "license": None, **changes}
    return Export(domain="streets", config=None, splits=splits or ("train",), **values)


def load(folder: Path, split: str) -> Any:
    """The rows of an exported folder, as any user reads them."""
    return datasets.load_dataset(str(folder), split=split)


def tables(folder: Path) -> list[Path]:
    return sorted((folder / "data").iterdir())
