"""The weights as they are published: the same tensors, without places in the file's metadata."""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.headers import METADATA, header_bytes
from revt_hf.hub.places import without_places
from revt_hf.hub.records import published_record

_LENGTH_BYTES = 8


def copy_weights(source: Path, target: Path, link: bool, hub_ids: Collection[str]) -> None:
    """Copy a safetensors file; a merge's record in its metadata loses the places of this machine.

    Args:
        source: a file that can be read.
        target: the new file.
        link: a hard link does where the file stays as it is and the file system has links.
        hub_ids: what looks like a path in the metadata but is a Hub model.
    """
    with source.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        metadata = header.get(METADATA) or {}
        published = {key: _published(value, hub_ids) for key, value in metadata.items()}
        if published == metadata:
            _same(source, target, link)
            return
        with target.open("wb") as copy:
            copy.write(header_bytes({**header, METADATA: published}))
            shutil.copyfileobj(file, copy)


def _same(source: Path, target: Path, link: bool) -> None:
    try:
        if link:
            os.link(source.resolve(), target)
    except OSError:
        link = False
    if not link:
        shutil.copyfile(source, target)


def _published(text: str, hub_ids: Collection[str]) -> str:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return str(without_places(text, hub_ids))
    if isinstance(value, Mapping) and "members" in value:
        reduced: Any = published_record(value, hub_ids)
    else:
        reduced = without_places(value, hub_ids)
    return text if reduced == value else json.dumps(reduced, sort_keys=True)
