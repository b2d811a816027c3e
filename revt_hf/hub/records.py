"""What a model folder records of how it was made, in the form that is published."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.data.augment import method
from revt_hf.hub.commit import is_repo_id
from revt_hf.hub.places import last_part, without_places
from revt_hf.merging.merge_spec import Rule
from revt_hf.merging.record import Change, MergeRecord, parse_record, read_merge_record
from revt_hf.models.recorded import MERGE_FILE, recorded_recipe
from revt_hf.results.markdown import yaml_text

# The only owner whose SegFormers a recipe's start is known to mean; ``owner/name`` is a folder too.
_KNOWN_OWNER = "nvidia/"


@dataclass(frozen=True)
class Member:
    """One model that went into a merge.

    Attributes:
        name: of its folder, made unique among the members.
        sha256: of its weights; None if it was not taken.
        hub_id: where it is published (``owner/name@revision``), if it came from there.
        recipe: it was trained with, where a folder with those weights is at hand.
        is_merge: whether it was merged itself.
        changes: what was done to its weights after they were merged or trained.
        history: how it was made, in words, as far as the record says so.
    """

    name: str
    sha256: str | None
    hub_id: str | None
    recipe: Recipe | None
    is_merge: bool = False
    changes: tuple[Change, ...] = ()
    history: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """The Hub id or the name."""
        return self.hub_id or self.name


@dataclass(frozen=True)
class Merge:
    """How a merged model was made.

    Attributes:
        rules: the last one that selects a tensor counts.
        head: the name of the member that every other tensor comes from.
        members: in the order of the merge.
        record: ``merge.json`` without places of this machine.
    """

    rules: tuple[Rule, ...]
    head: str
    members: tuple[Member, ...]
    record: MergeRecord


def known_hub_ids(base_models: Sequence[str], recipe: Recipe | None) -> tuple[str, ...]:
    """What may be named as a Hub model: ``base_models``, and a recipe's start if it is NVIDIA's.

    Raises:
        UserError: one of ``base_models`` is not the id of a Hub model, or is a folder here.
    """
    for name in base_models:
        if not is_repo_id(name) or Path(name).exists():
            raise UserError(
                f"the base model '{name}' is not the id of a Hub model: write it as owner/name"
            )
    start = (recipe.model.init or "") if recipe else ""
    known = [start.partition("@")[0]] if is_known(start) else []
    return tuple(dict.fromkeys([*base_models, *known]))


def is_known(name: str, hub_ids: Collection[str] = ()) -> bool:
    """Whether ``owner/name`` or ``owner/name@revision`` is a Hub model for sure."""
    model = name.partition("@")[0]
    return model in hub_ids or (model.startswith(_KNOWN_OWNER) and is_repo_id(model))


def published_recipe(recipe: Recipe, hub_ids: Collection[str]) -> str:
    """A resolved recipe as YAML, without places of this machine."""
    values = without_places(recipe.model_dump(mode="json"), hub_ids)
    return yaml_text(values)


def read_merge(folder: Path, hub_ids: Collection[str], near: Sequence[Path] = ()) -> Merge | None:
    """Read ``merge.json``, if the folder has one.

    Args:
        folder: the model's.
        hub_ids: members that are called so are Hub models; all others are folders.
        near: more folders in which a member may be, beside those that the record names.

    Raises:
        UserError: it is there, but not a merge record of this package.
    """
    path = folder / MERGE_FILE
    if not path.is_file():
        return None
    record = read_merge_record(path)
    published = parse_record(published_record(record.to_json(), hub_ids), path, MergeRecord)
    places = [member.path for member in record.members]
    names = _names([member.name or member.path for member in record.members])
    members = tuple(
        Member(
            name,
            entry.sha256,
            place if place.partition("@")[0] in hub_ids else None,
            _recipe_of(entry.sha256, [*near, *_folders(place, folder.parent)]),
            entry.merge is not None,
            entry.changes,
            tuple(entry.history()),
        )
        for name, place, entry in zip(names, places, published.members, strict=True)
    )
    return Merge(record.rules, members[record.head - 1].called, members, published)


def published_record(record: Mapping[str, Any], hub_ids: Collection[str]) -> dict[str, Any]:
    """A merge record without places of this machine: members are called by their names.

    Args:
        record: of ``merge.json``, or of the merged weights' own metadata.
        hub_ids: members that are called so are Hub models and stay.
    """
    entries = record["members"]
    names = _names([str(entry.get("name") or entry["path"]) for entry in entries])
    members = []
    for name, entry in zip(names, entries, strict=True):
        is_published = str(entry["path"]).partition("@")[0] in hub_ids
        path = entry["path"] if is_published else name
        members.append({**without_places(entry, hub_ids), "path": path})
    return {
        key: members if key == "members" else without_places(value, hub_ids, key)
        for key, value in record.items()
    }


def method_name(recipe: Recipe) -> str:
    """The augmentation method of a recipe, such as ``4 (pixmix)``."""
    name = recipe.augmentation.method
    try:
        return str(method(name))
    except UserError:
        # It was registered where the model was trained.
        return str(name)


def _folders(place: str, beside: Path) -> list[Path]:
    """Where a member may still be: a folder, or a file in one."""
    path = Path(place)
    return [path, path.parent, beside / last_part(place)]


def _recipe_of(sha256: str | None, folders: Sequence[Path]) -> Recipe | None:
    """The recipe beside exactly these weights."""
    for folder in folders:
        weights = folder / WEIGHTS_FILE
        if weights.is_file() and file_sha256(weights) == sha256:
            return recorded_recipe(folder)
    return None


def _names(places: Sequence[str]) -> list[str]:
    """The members' names: of their folders, numbered where two are the same."""
    folders = [place.removesuffix(f"/{WEIGHTS_FILE}") for place in places]
    return _unique([last_part(folder) for folder in folders])


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        free, number = name, 2
        while free in found:
            free, number = f"{name}-{number}", number + 1
        found.append(free)
    return found
