"""How a model was trained or merged, read from its folder and prepared for publishing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.tensors import MERGE_FILE, WEIGHTS_FILE
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.data.augment import method
from revt_hf.hub.commit import is_repo_id
from revt_hf.hub.local_paths import last_part, without_local_paths
from revt_hf.merging.record import Change, MergeRecord, parse_record, read_merge_record
from revt_hf.merging.registry import Rule
from revt_hf.models.recorded import recorded_recipe
from revt_hf.results.markdown import yaml_text

# The only owner whose SegFormers may be initial weights for sure: ``owner/name`` is a folder, too.
_KNOWN_OWNER = "nvidia/"


@dataclass(frozen=True)
class MemberFacts:
    """A member of a merge; its ``recipe`` is known if a folder with these weights is found.

    ``hub_id`` is ``owner/name@revision``; ``history`` is how it was made, in words, if recorded.
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
        """The Hub ID or the name, which is unique among the members."""
        return self.hub_id or self.name


@dataclass(frozen=True)
class MergeFacts:
    """How a model was merged; ``record`` is ``merge.json`` without local paths."""

    rules: tuple[Rule, ...]
    head: str
    members: tuple[MemberFacts, ...]
    record: MergeRecord


def known_hub_ids(base_models: Sequence[str], recipe: Recipe | None) -> tuple[str, ...]:
    """The known Hub IDs: ``base_models``, and the recipe's initial weights if from NVIDIA."""
    for name in base_models:
        if not is_repo_id(name) or Path(name).exists():
            raise UserError(
                f"the base model '{name}' is not the ID of a Hub model: write it as owner/name"
            )
    init = (recipe.model.init or "") if recipe else ""
    known = [init.partition("@")[0]] if is_known(init) else []
    return tuple(dict.fromkeys([*base_models, *known]))


def is_known(name: str, hub_ids: Collection[str] = ()) -> bool:
    """Whether ``owner/name`` or ``owner/name@revision`` is certainly a Hub model."""
    model = name.partition("@")[0]
    return model in hub_ids or (model.startswith(_KNOWN_OWNER) and is_repo_id(model))


def published_recipe(recipe: Recipe, hub_ids: Collection[str]) -> str:
    """A resolved recipe as YAML, without local paths."""
    values = without_local_paths(recipe.model_dump(mode="json"), hub_ids)
    return yaml_text(values)


def read_merge(
    folder: Path, hub_ids: Collection[str], near: Sequence[Path] = ()
) -> MergeFacts | None:
    """Read ``merge.json``, if the folder has one; members not among ``hub_ids`` are folders.

    Their recipes are also looked for in the folders ``near``.
    """
    file = folder / MERGE_FILE
    if not file.is_file():
        return None
    record = read_merge_record(file)
    published = parse_record(published_record(record.to_json(), hub_ids), file, MergeRecord)
    paths = [member.path for member in record.members]
    names = _names([member.name or member.path for member in record.members])
    members = tuple(
        MemberFacts(
            name,
            entry.sha256,
            path if path.partition("@")[0] in hub_ids else None,
            # The path of a member may be a file in its folder.
            _recipe_of(
                entry.sha256,
                [*near, Path(path), Path(path).parent, folder.parent / last_part(path)],
            ),
            entry.merge is not None,
            entry.changes,
            tuple(entry.history()),
        )
        for name, path, entry in zip(names, paths, published.members, strict=True)
    )
    return MergeFacts(record.rules, members[record.head - 1].called, members, published)


def published_record(record: Mapping[str, Any], hub_ids: Collection[str]) -> dict[str, Any]:
    """A merge record without local paths: members that are folders have their names as paths."""
    entries = record["members"]
    names = _names([str(entry.get("name") or entry["path"]) for entry in entries])
    members = []
    for name, entry in zip(names, entries, strict=True):
        is_published = str(entry["path"]).partition("@")[0] in hub_ids
        path = entry["path"] if is_published else name
        members.append({**without_local_paths(entry, hub_ids), "path": path})
    return {
        key: members if key == "members" else without_local_paths(value, hub_ids, key)
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


def _recipe_of(sha256: str | None, folders: Sequence[Path]) -> Recipe | None:
    """The recipe beside the weights with this hash."""
    for folder in folders:
        weights = folder / WEIGHTS_FILE
        if weights.is_file() and file_sha256(weights) == sha256:
            return recorded_recipe(folder)
    return None


def _names(paths: Sequence[str]) -> list[str]:
    """Unique names of members: those of their folders, numbered where several are the same."""
    names: list[str] = []
    for path in paths:
        base = name = last_part(path.removesuffix(f"/{WEIGHTS_FILE}"))
        number = 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names
