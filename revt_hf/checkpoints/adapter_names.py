"""Where the tensors of an adapter and of its base lie in the whole model."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from revt_hf.checkpoints.built import empty_model
from revt_hf.checkpoints.families import SEGFORMER, Family, family_of
from revt_hf.checkpoints.names import names_on_disk
from revt_hf.checkpoints.tensors import CONFIG_FILE, adapter_base
from revt_hf.core.outputs import read_json_object


def described_names(adapter: Path) -> tuple[Family, dict[str, str] | None]:
    """The family of an adapter's whole model, and its names on disk by those in memory.

    The configuration is the adapter's own if it has one: a base is often an encoder alone. A
    SegFormer's names follow rules and need no list (None).
    """
    own = adapter / CONFIG_FILE
    base = None if own.is_file() else adapter_base(adapter)
    path = own if base is None else base / CONFIG_FILE
    values = read_json_object(path) if path.is_file() else {"model_type": "segformer"}
    if values.get("model_type") == "segformer":
        return SEGFORMER, None
    names = names_on_disk(empty_model(values, path))
    return family_of(values, names), names


def leading_part(names: Collection[str], places: Iterable[str]) -> str:
    """What has to be put before names so that most of them are places."""
    counts = Counter(
        place[:start]
        for place in places
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", place)))
        if place[start:] in names
    )
    return max(counts, key=lambda lead: (counts[lead], -len(lead)), default="")
