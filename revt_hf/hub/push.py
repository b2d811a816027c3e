"""Push a model to the Hub in one commit, after everything in it was assembled and checked."""

import hashlib
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from revt_hf import __version__
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.headers import common_dtype
from revt_hf.checkpoints.names import disk_name, listed
from revt_hf.checkpoints.tensors import (
    CHANGES_FILE,
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
from revt_hf.evaluation.result import Result, read_results, write_results
from revt_hf.hub.cards import card_text, check_card
from revt_hf.hub.collections import extend_collection, find_collection
from revt_hf.hub.commit import (
    CARD_FILE,
    Kind,
    PushOptions,
    check_repo_id,
    check_repository,
    open_repository,
    published_recipe,
    pushing,
    require_token,
    without_local_paths,
)
from revt_hf.hub.evaluations import (
    EVALUATIONS_FILE,
    check_dataset_ids,
    check_tasks,
    evaluations_text,
)
from revt_hf.hub.facts import MemberFacts, ModelCardFacts, model_facts, results_of
from revt_hf.hub.published import CONFIG_FILES, published_result, write_model
from revt_hf.hub.space import SPACE_ADVICE, check_with_space, write_space
from revt_hf.merging.record import checked_record
from revt_hf.models.load import load_model
from revt_hf.models.recorded import recorded_recipe

RESULTS_FILE = "results.json"
TABLE_FILE = "tables.csv"
_RECORDS = (MERGE_FILE, CHANGES_FILE, RECIPE_FILE, RESULTS_FILE, EVALUATIONS_FILE, TABLE_FILE)
_OWN = sorted({WEIGHTS_FILE, *CONFIG_FILES, CARD_FILE, *_RECORDS})
_MEMBERS = "members"
# What a push could have written in a repository.
_OWN_PATH = re.compile(rf"({_MEMBERS}/[^/]+/)?({'|'.join(map(re.escape, _OWN))})")
_PULL_REQUESTS = "refs/pr/"
_ADVICE = "a push is one commit, so nothing is half-published: run the same command again"
_COLLECTION_ADVICE = (
    "the models are published: run the same command again, or with another --collection"
)
_log = logging.getLogger(__name__)


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
    options, folder = options or PushOptions(), Path(folder)
    check_repo_id(repo_id, "model")
    check_with_space(options)
    if options.dry_run is None:
        require_token()
    for path in (folder, *options.with_members):
        _check_files(path)
    measured = None if results is None else read_results([Path(results)])
    if options.dry_run is not None:
        inputs = (folder, results, *options.with_members)
        with atomic_folder(Path(options.dry_run), options.overwrite, inputs) as scratch:
            facts = assemble(folder, repo_id, options, measured, scratch)
            check_dataset_ids(options.dataset_ids, [facts])
        return str(options.dry_run)
    with tempfile.TemporaryDirectory(prefix="revt-push-") as name:
        assembled = Path(name) / "model"
        assembled.mkdir()
        facts = assemble(folder, repo_id, options, measured, assembled)
        check_dataset_ids(options.dataset_ids, [facts])
        published: list[tuple[str, Kind]] = [(repo_id, "model")]
        with pushing(repo_id, HfApi(), options.quiet, _ADVICE):
            check_pages(options, repo_id)
            if options.with_space:
                check_repository(HfApi(), repo_id, "space", options.private)
        done = send(assembled, repo_id, options)
        if options.with_space:
            space, members = Path(name) / "space", _members_on_hub(facts)
            space.mkdir()
            models = {model: model for model in (*members, repo_id)}
            write_space(space, models, ["--ensemble"] if len(members) > 1 else [])
            send(space, repo_id, options, "space", SPACE_ADVICE)
            published.append((repo_id, "space"))
    collect(options, repo_id, published)
    return done


def _members_on_hub(facts: ModelCardFacts) -> list[str]:
    """The Hub IDs of a merge's members, as far as they are known."""
    paths = [member.record.path for member in facts.members]
    return [path for path in paths if path.partition("@")[0] in facts.base_models]


def check_pages(options: PushOptions, repo_id: str) -> None:
    """Refuse benchmarks and a collection that cannot be used; changes nothing."""
    hub = HfApi()
    check_tasks(hub, options.dataset_ids)
    if options.collection is not None:
        find_collection(hub, options.collection, repo_id.partition("/")[0], options.private)


def collect(options: PushOptions, repo_id: str, items: Sequence[tuple[str, Kind]]) -> None:
    """Add repositories to the collection that the options name, if any."""
    hub, title = HfApi(), options.collection
    if title is not None:
        with pushing(f"the collection {title}", hub, options.quiet, _COLLECTION_ADVICE):
            owner = repo_id.partition("/")[0]
            url = extend_collection(hub, title, owner, options.private, items)
            _log.info("collection: %s", url)


def assemble(
    folder: Path,
    repo_id: str,
    options: PushOptions,
    measured: Sequence[Result] | None,
    target: Path,
) -> ModelCardFacts:
    """Check everything, then write the content of the repository into an empty folder."""
    _check_files(folder)
    facts = model_facts(folder, repo_id, options, measured)
    members = {_name_of(member, facts.members): member for member in options.with_members}
    for model in (folder, *members.values()):
        check_model(model)
    text = card_text(facts)
    check_card(text)
    evaluations, others = evaluations_text(facts)
    if others:
        _log.info(
            "%s: scores are in the card's model-index; an entry in %s needs their benchmark on "
            "the Hub: --dataset-id DOMAIN=OWNER/NAME:TASK",
            ", ".join(others),
            EVALUATIONS_FILE,
        )
    # Weights are linked only into a temporary folder.
    hub_ids = facts.base_models
    how = (options.dry_run is None, hub_ids, options.related.models)
    write_model(folder, target, *how)
    write_text(target / CARD_FILE, text)
    if evaluations:
        (target / EVALUATIONS_FILE).parent.mkdir()
        write_text(target / EVALUATIONS_FILE, evaluations)
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
        write_model(member, copy, *how)
        recipe = recorded_recipe(member)
        if recipe:
            write_text(copy / RECIPE_FILE, published_recipe(recipe, hub_ids))
        own = results_of(member, measured or ())
        published += [published_result(result, f"{_MEMBERS}/{name}") for result in own]
    if measured is not None:
        write_results(target / RESULTS_FILE, published)
    return facts


def _check_files(folder: Path) -> None:
    refuse_adapter(folder)
    for name in (WEIGHTS_FILE, *CONFIG_FILES):
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


def send(
    folder: Path,
    repo_id: str,
    options: PushOptions,
    kind: Kind = "model",
    advice: str = _ADVICE,
) -> str:
    """Send the content of a repository as one commit, unless it is there; its address."""
    hub = HfApi()
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    digests = "".join(f"{name}:{file_sha256(path)}\n" for name, path in files.items())
    digest = hashlib.sha256(digests.encode()).hexdigest()[:12]
    title = f"revt_hf {__version__}: {kind} {digest}"
    branch, new_pr = options.revision, options.create_pr
    make_branch = not new_pr and not (branch or "").startswith(_PULL_REQUESTS)
    with pushing(repo_id, hub, options.quiet, advice):
        head, there = open_repository(hub, repo_id, kind, options.private, branch, make_branch)
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
            repo_type=kind,
            revision=branch,
            create_pr=new_pr,
            # A commit made in the meantime is not overwritten.
            parent_commit=head,
        )
    place = repo_id if kind == "model" else f"{kind}s/{repo_id}"
    return done.pr_url or f"{hub.endpoint}/{place}{f'/tree/{branch}' if branch else ''}"
