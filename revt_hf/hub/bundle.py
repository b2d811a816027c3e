"""The content of a pushed repository, assembled and checked before the first request."""

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.headers import METADATA, common_dtype, header_bytes
from revt_hf.checkpoints.names import disk_name, listed
from revt_hf.checkpoints.tensors import MERGE_FILE, RECIPE_FILE, WEIGHTS_FILE, open_checkpoint
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256, read_json_object, write_json, write_text
from revt_hf.evaluation.result import Result, write_results
from revt_hf.hub.cards import check_card
from revt_hf.hub.commit import CARD_FILE
from revt_hf.hub.facts import ModelCardFacts, published_result, results_of
from revt_hf.hub.local_paths import without_local_paths
from revt_hf.hub.model_card import card_text
from revt_hf.hub.records import Member, published_recipe, published_record
from revt_hf.merging.record import CHANGES_FILE, checked_record
from revt_hf.models.load import load_model
from revt_hf.models.recorded import recorded_recipe

RESULTS_FILE = "results.json"
_CONFIG_FILES = ("config.json", "preprocessor_config.json")
# Keys that name code which transformers imports with trust_remote_code.
_CODE = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_RECORDS = (MERGE_FILE, CHANGES_FILE, RECIPE_FILE, RESULTS_FILE)
_OWN = {WEIGHTS_FILE, *_CONFIG_FILES, CARD_FILE, *_RECORDS}
_MEMBERS = "members"
_LENGTH_BYTES = 8
_OWN_PATH = re.compile(rf"({_MEMBERS}/[^/]+/)?({'|'.join(map(re.escape, sorted(_OWN)))})")


@dataclass(frozen=True)
class Bundle:
    """Everything that goes into a repository.

    Attributes:
        folder: of the model.
        facts: for its card.
        results: of the result file, if there is one.
        members: folders of the members to publish along with it, by name.
    """

    folder: Path
    facts: ModelCardFacts
    results: Sequence[Result] | None
    members: Mapping[str, Path]


def is_own(path: str) -> bool:
    """Whether a push could have written the file at this path of a repository."""
    return _OWN_PATH.fullmatch(path) is not None


def check_files(folder: Path) -> None:
    """Refuse a folder that lacks a file of a SegFormer.

    Raises:
        UserError: a file is missing.
    """
    for name in (WEIGHTS_FILE, *_CONFIG_FILES):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a complete SegFormer folder: {name} is missing")


def check_model(folder: Path) -> None:
    """Refuse a folder that does not load as it is.

    Raises:
        UserError: from :func:`revt_hf.models.load.load_model`; a file is missing; ``config.json``
            names another dtype than that of the weights; or the folder's record describes other
            weights.
    """
    check_files(folder)
    load_model(folder)
    described = read_description(folder)
    with open_checkpoint(folder) as checkpoint:
        dtype = common_dtype(place.dtype for place in checkpoint.tensors.values())
        others = [p.name for name, p in checkpoint.tensors.items() if disk_name(p.name) != name]
        others += checkpoint.dropped
    if others:
        raise UserError(
            f"{folder / WEIGHTS_FILE} holds {listed(others)}, which transformers would not load: "
            "revt merge and revt convert write a folder that it does load"
        )
    if described.dtype not in (None, dtype):
        raise UserError(
            f"{described.file} says {described.dtype}, the weights are {dtype}: correct its dtype"
        )
    checked_record(folder)


def members_by_name(members: Sequence[Member], folders: Sequence[Path]) -> dict[str, Path]:
    """The folders of a merge's members, by the names of the members.

    Raises:
        UserError: a folder does not hold the weights of a member.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        check_files(folder)
        digest = file_sha256(folder / WEIGHTS_FILE)
        names = [member.name for member in members if member.sha256 == digest]
        if not names:
            raise UserError(
                f"{folder} is not a member of this model: {MERGE_FILE} does not name its weights "
                f"(sha256 {digest})"
            )
        found[names[0]] = folder
    return found


def assemble(bundle: Bundle, target: Path, link: bool) -> None:
    """Write the content of the repository into an empty folder.

    Args:
        bundle: the content.
        target: the folder.
        link: hard-link unchanged weights where the file system allows it, for a temporary folder.

    Raises:
        UserError: the Hub would reject the card, or a file cannot be read.
    """
    facts = bundle.facts
    text = card_text(facts)
    check_card(text)
    _write_model(bundle.folder, target, link, facts.base_models)
    write_text(target / CARD_FILE, text)
    if facts.merge:
        write_json(target / MERGE_FILE, facts.merge.record.to_json())
    elif facts.changes:
        changes = without_local_paths(read_json_object(bundle.folder / CHANGES_FILE))
        write_json(target / CHANGES_FILE, changes)
    if facts.recipe_text:
        write_text(target / RECIPE_FILE, facts.recipe_text)
    for name, folder in bundle.members.items():
        member = target / _MEMBERS / name
        member.mkdir(parents=True)
        _write_model(folder, member, link, facts.base_models)
        recipe = recorded_recipe(folder)
        if recipe:
            write_text(member / RECIPE_FILE, published_recipe(recipe, facts.base_models))
    if bundle.results is not None:
        write_results(target / RESULTS_FILE, _published_results(bundle, bundle.results))


def _published_results(bundle: Bundle, results: Sequence[Result]) -> list[Result]:
    measured = [published_result(result, bundle.facts.repo_id) for result in bundle.facts.results]
    for name, folder in bundle.members.items():
        own = results_of(folder, results)
        measured += [published_result(result, f"{_MEMBERS}/{name}") for result in own]
    return measured


def _write_model(folder: Path, target: Path, link: bool, hub_ids: Collection[str]) -> None:
    _copy_weights(folder / WEIGHTS_FILE, target / WEIGHTS_FILE, link, hub_ids)
    for name in _CONFIG_FILES:
        write_json(
            target / name, without_local_paths(_without_code(read_json_object(folder / name)))
        )


def _without_code(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = ((key, inner) for key, inner in value.items() if key not in _CODE)
        return {key: _without_code(inner) for key, inner in kept}
    return [*map(_without_code, value)] if isinstance(value, list) else value


def _copy_weights(source: Path, target: Path, link: bool, hub_ids: Collection[str]) -> None:
    """Copy a safetensors file; local paths are removed from its metadata."""
    with source.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        metadata = header.get(METADATA) or {}
        published = {key: _published(value, hub_ids) for key, value in metadata.items()}
        if published != metadata:
            with target.open("wb") as copy:
                copy.write(header_bytes({**header, METADATA: published}))
                shutil.copyfileobj(file, copy)
            return
    try:
        if link:
            os.link(source.resolve(), target)
    except OSError:
        link = False
    if not link:
        shutil.copyfile(source, target)


def _published(text: str, hub_ids: Collection[str]) -> str:
    """A value of the metadata, which may be JSON such as a merge record."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return str(without_local_paths(text, hub_ids))
    if isinstance(value, Mapping) and "members" in value:
        reduced: Any = published_record(value, hub_ids)
    else:
        reduced = without_local_paths(value, hub_ids)
    return text if reduced == value else json.dumps(reduced, sort_keys=True)
