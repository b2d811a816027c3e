"""Weights, records and results as they are published: without local paths."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.fields import CODE_KEYS, without
from revt_hf.checkpoints.headers import METADATA, header_bytes
from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.evaluation.result import Result
from revt_hf.hub.commit import Published, last_part, without_local_paths

CONFIG_FILES = ("config.json", "preprocessor_config.json")
_LENGTH_BYTES = 8


def published_record(
    record: Mapping[str, Any], hub_ids: Collection[str], related: Mapping[str, Published]
) -> dict[str, Any]:
    """A merge record without local paths: members have their Hub IDs as paths, or their names."""
    entries = record["members"]
    names = member_names([str(entry.get("name") or entry["path"]) for entry in entries])

    def told(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
        is_published = str(entry["path"]).partition("@")[0] in hub_ids
        path = entry["path"] if is_published else name
        if entry.get("sha256") in related:
            path = related[entry["sha256"]].repo_id
        return {**without_local_paths(entry, hub_ids), "path": path}

    shown = {key: without_local_paths(value, hub_ids, key) for key, value in record.items()}
    shown["members"] = list(map(told, entries, names))
    if record.get("base"):
        shown["base"] = told(record["base"], shown["base"]["path"])
    return shown


def published_result(result: Result, name: str) -> Result:
    """A result under the published name of the model, without local paths."""
    values = without_local_paths(result.model_dump(mode="json"))
    return Result.model_validate({**values, "model": name})


def member_names(paths: Sequence[str]) -> list[str]:
    """Unique names of members: those of their folders, numbered where several are the same."""
    names: list[str] = []
    for path in paths:
        base = name = last_part(path.removesuffix(f"/{WEIGHTS_FILE}"))
        number = 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def write_model(
    folder: Path,
    target: Path,
    link: bool,
    hub_ids: Collection[str],
    related: Mapping[str, Published],
) -> None:
    """Write weights, which are linked where that is possible, and configurations to a folder."""

    def published(text: str) -> str:
        return _published(text, hub_ids, related)

    _copy_weights(folder / WEIGHTS_FILE, target / WEIGHTS_FILE, link, published)
    for name in CONFIG_FILES:
        values = without(read_json_object(folder / name), CODE_KEYS)
        write_json(target / name, without_local_paths(values))


def _copy_weights(source: Path, target: Path, link: bool, published: Callable[[str], str]) -> None:
    """Copy a safetensors file; local paths are removed from its metadata."""
    with source.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        metadata = header.get(METADATA) or {}
        told = {key: published(value) for key, value in metadata.items()}
        if told != metadata:
            with target.open("wb") as copy:
                copy.write(header_bytes({**header, METADATA: told}))
                shutil.copyfileobj(file, copy)
            return
    try:
        if link:
            os.link(source.resolve(), target)
    except OSError:
        link = False
    if not link:
        shutil.copyfile(source, target)


def _published(text: str, hub_ids: Collection[str], related: Mapping[str, Published]) -> str:
    """A value of the metadata, which may be JSON such as a merge record."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return str(without_local_paths(text, hub_ids))
    if isinstance(value, Mapping) and "members" in value:
        reduced: Any = published_record(value, hub_ids, related)
    else:
        reduced = without_local_paths(value, hub_ids)
    return text if reduced == value else json.dumps(reduced, sort_keys=True)
