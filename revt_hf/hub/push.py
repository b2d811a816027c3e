"""Push a model to the Hub in one commit, after everything in it was assembled and checked."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from revt_hf import __version__
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.fields import CODE_KEYS, without
from revt_hf.checkpoints.headers import METADATA, common_dtype, header_bytes
from revt_hf.checkpoints.names import disk_name, listed
from revt_hf.checkpoints.tensors import (
    MERGE_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    open_checkpoint,
    refuse_adapter,
)
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import (
    atomic_folder,
    file_sha256,
    read_json_object,
    write_json,
    write_text,
)
from revt_hf.evaluation.result import read_results, write_results
from revt_hf.hub.cards import card_text, check_card
from revt_hf.hub.commit import (
    CARD_FILE,
    PushOptions,
    check_repo_id,
    open_repository,
    published_recipe,
    pushing,
    require_token,
    without_local_paths,
)
from revt_hf.hub.facts import (
    MemberFacts,
    model_facts,
    published_record,
    published_result,
    results_of,
)
from revt_hf.hub.space import check_free, check_with_space, push_space
from revt_hf.merging.record import CHANGES_FILE, checked_record
from revt_hf.models.load import load_model
from revt_hf.models.recorded import recorded_recipe

_RESULTS_FILE = "results.json"
_CONFIG_FILES = ("config.json", "preprocessor_config.json")
_RECORDS = (MERGE_FILE, CHANGES_FILE, RECIPE_FILE, _RESULTS_FILE)
_OWN = sorted({WEIGHTS_FILE, *_CONFIG_FILES, CARD_FILE, *_RECORDS})
_MEMBERS = "members"
# What a push could have written in a repository.
_OWN_PATH = re.compile(rf"({_MEMBERS}/[^/]+/)?({'|'.join(map(re.escape, _OWN))})")
_LENGTH_BYTES = 8
_PULL_REQUESTS = "refs/pr/"
_ADVICE = "a push is one commit, so nothing is half-published: run the same command again"


def push(
    folder: str | Path,
    repo_id: str,
    options: PushOptions | None = None,
    results: str | Path | None = None,
) -> str:
    """Push a SegFormer folder with its card, records and results to the Hub, as one commit.

    Repeating a push changes nothing. A repository with content from elsewhere is left alone; in
    one that was pushed before, files that a push wrote and this one does not are deleted.

    Args:
        folder: of the model.
        repo_id: ``owner/name``; created if it does not exist.
        options: see :class:`PushOptions`.
        results: a result file; the scores of this model go into the card.

    Returns:
        The address of the repository, branch or pull request; of a dry run, the folder.

    Raises:
        UserError: the folder is not a complete SegFormer of finite weights, the card lacks
            something or holds something wrong, or the Hub cannot be reached or refuses. Nothing
            is published then.
    """
    options = options or PushOptions()
    check_repo_id(repo_id, "model")
    check_with_space(options)
    if options.dry_run is not None:
        inputs = (folder, results, *options.with_members)
        with atomic_folder(Path(options.dry_run), options.overwrite, inputs) as scratch:
            _assemble(Path(folder), repo_id, options, results, scratch)
        return str(options.dry_run)
    require_token()
    with tempfile.TemporaryDirectory(prefix="revt-push-") as name:
        assembled = Path(name) / "model"
        assembled.mkdir()
        _assemble(Path(folder), repo_id, options, results, assembled)
        if options.with_space:
            check_free(repo_id, options)
        address = _send(assembled, repo_id, options)
        if options.with_space:
            space = Path(name) / "space"
            space.mkdir()
            push_space(space, repo_id, _members_on_hub(assembled, options), options)
        return address


def _members_on_hub(folder: Path, options: PushOptions) -> list[str]:
    """The Hub IDs of a published merge's members, as far as they are known."""
    record = read_json_object(folder / MERGE_FILE) if (folder / MERGE_FILE).is_file() else {}
    paths = [member["path"] for member in record.get("members", ())]
    return [path for path in paths if path.partition("@")[0] in options.base_models]


def _assemble(
    folder: Path, repo_id: str, options: PushOptions, results: str | Path | None, target: Path
) -> None:
    """Check everything, then write the content of the repository into an empty folder."""
    for path in (folder, *options.with_members):
        _check_files(path)
    measured = None if results is None else read_results([Path(results)])
    facts = model_facts(folder, repo_id, options, measured)
    members = {_name_of(member, facts.members): member for member in options.with_members}
    for model in (folder, *members.values()):
        check_model(model)
    text = card_text(facts)
    check_card(text)
    # Weights are linked only into a temporary folder.
    link, hub_ids = options.dry_run is None, facts.base_models
    _write_model(folder, target, link, hub_ids)
    write_text(target / CARD_FILE, text)
    if facts.merge:
        write_json(target / MERGE_FILE, facts.merge.to_json())
    elif facts.changes:
        changes = without_local_paths(read_json_object(folder / CHANGES_FILE))
        write_json(target / CHANGES_FILE, changes)
    if facts.recipe:
        write_text(target / RECIPE_FILE, published_recipe(facts.recipe, hub_ids))
    published = [published_result(result, repo_id) for result in facts.results]
    for name, member in members.items():
        copy = target / _MEMBERS / name
        copy.mkdir(parents=True)
        _write_model(member, copy, link, hub_ids)
        recipe = recorded_recipe(member)
        if recipe:
            write_text(copy / RECIPE_FILE, published_recipe(recipe, hub_ids))
        own = results_of(member, measured or ())
        published += [published_result(result, f"{_MEMBERS}/{name}") for result in own]
    if measured is not None:
        write_results(target / _RESULTS_FILE, published)


def _check_files(folder: Path) -> None:
    refuse_adapter(folder)
    for name in (WEIGHTS_FILE, *_CONFIG_FILES):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a complete SegFormer folder: {name} is missing")


def check_model(folder: Path) -> None:
    """Refuse a folder that does not load as it is, or whose record describes other weights."""
    load_model(folder)
    described = read_description(folder)
    with open_checkpoint(folder) as checkpoint:
        dtype = common_dtype(tensor.dtype for tensor in checkpoint.tensors.values())
        others = [t.name for name, t in checkpoint.tensors.items() if disk_name(t.name) != name]
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


def _name_of(folder: Path, members: Sequence[MemberFacts]) -> str:
    digest = file_sha256(folder / WEIGHTS_FILE)
    names = [member.name for member in members if member.record.sha256 == digest]
    if not names:
        raise UserError(
            f"{folder} is not a member of this model: {MERGE_FILE} does not name its weights "
            f"(sha256 {digest})"
        )
    return names[0]


def _write_model(folder: Path, target: Path, link: bool, hub_ids: Collection[str]) -> None:
    _copy_weights(folder / WEIGHTS_FILE, target / WEIGHTS_FILE, link, hub_ids)
    for name in _CONFIG_FILES:
        values = without(read_json_object(folder / name), CODE_KEYS)
        write_json(target / name, without_local_paths(values))


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


def _send(folder: Path, repo_id: str, options: PushOptions) -> str:
    hub = HfApi()
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    digests = "".join(f"{name}:{file_sha256(path)}\n" for name, path in files.items())
    digest = hashlib.sha256(digests.encode()).hexdigest()[:12]
    title = f"revt_hf {__version__}: model {digest}"
    branch, new_pr = options.revision, options.create_pr
    make_branch = not new_pr and not (branch or "").startswith(_PULL_REQUESTS)
    with pushing(repo_id, hub, options.quiet, _ADVICE):
        head, there = open_repository(hub, repo_id, "model", options.private, branch, make_branch)
        if new_pr:
            requests = hub.get_repo_discussions(
                repo_id, discussion_type="pull_request", discussion_status="open"
            )
            opened = [request.url for request in requests if request.title == title]
            if opened:
                return opened[0]
        stale = [name for name in there if _OWN_PATH.fullmatch(name) and name not in files]
        done = hub.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name, is_folder=False) for name in stale),
            ],
            commit_message=title,
            revision=branch,
            create_pr=new_pr,
            # A commit made in the meantime is not overwritten.
            parent_commit=head,
        )
    return done.pr_url or f"{hub.endpoint}/{repo_id}{f'/tree/{branch}' if branch else ''}"
