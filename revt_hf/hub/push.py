"""Push a model to the Hub in one commit, after everything has been checked."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from revt_hf import __version__
from revt_hf.core.outputs import atomic_folder, file_sha256
from revt_hf.evaluation.result import read_results
from revt_hf.hub.bundle import (
    Bundle,
    assemble,
    check_files,
    check_model,
    is_own,
    members_by_name,
)
from revt_hf.hub.commit import (
    check_ours,
    check_repo_id,
    make_repository,
    pushing,
    require_token,
)
from revt_hf.hub.facts import ModelCardFacts

_PULL_REQUESTS = "refs/pr/"
_ADVICE = "a push is one commit, so nothing is half-published: run the same command again"


@dataclass(frozen=True)
class PushOptions:
    """How a model is pushed.

    Attributes:
        private: make the repository private.
        create_pr: open a pull request instead of changing the branch.
        revision: the branch, created if it does not exist; None for main.
        dry_run: write exactly what would be sent to this folder, and send nothing.
        overwrite: replace the folder of an earlier dry run.
        with_members: folders of the merge's members, published in ``members/``.
        license: of the weights; required.
        base_models: Hub IDs of the members or of the initial weights.
        datasets: Hub IDs of the training datasets.
        quiet: hide progress bars.
    """

    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    dry_run: str | Path | None = None
    overwrite: bool = False
    with_members: tuple[Path, ...] = ()
    license: str | None = None
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    quiet: bool = False


def push(
    folder: str | Path,
    repo_id: str,
    options: PushOptions | None = None,
    results: str | Path | None = None,
) -> str:
    """Push a SegFormer folder with its card, records and results to the Hub, as one commit.

    Repeating a push changes nothing. A repository with content from elsewhere is left alone; in
    one that was pushed before, files that a push wrote and this one does not are deleted, and all
    other files stay.

    Args:
        folder: of the model.
        repo_id: ``owner/name``; created if it does not exist.
        options: see :class:`PushOptions`.
        results: a result file; the scores of this model go into the card.

    Returns:
        The address of the repository, its branch or the pull request; of a dry run, the folder.

    Raises:
        UserError: the folder is not a complete SegFormer of finite weights; something that the
            card needs is missing or wrong; the Hub cannot be reached or refuses. Nothing is
            published then.
    """
    settings = options or PushOptions()
    check_repo_id(repo_id, "model")
    if settings.dry_run is not None:
        inputs = (folder, results, *settings.with_members)
        with atomic_folder(Path(settings.dry_run), settings.overwrite, inputs) as scratch:
            assemble(_bundle(Path(folder), repo_id, settings, results), scratch, link=False)
        return str(settings.dry_run)
    require_token()
    bundle = _bundle(Path(folder), repo_id, settings, results)
    with tempfile.TemporaryDirectory(prefix="revt-push-") as name:
        assembled = Path(name) / "model"
        assembled.mkdir()
        assemble(bundle, assembled, link=True)
        return _send(assembled, repo_id, settings)


def _bundle(folder: Path, repo_id: str, options: PushOptions, results: str | Path | None) -> Bundle:
    check_files(folder)
    measured = None if results is None else read_results([Path(results)])
    facts = ModelCardFacts.from_folder(
        folder,
        repo_id,
        options.license,
        measured,
        options.base_models,
        options.datasets,
        options.with_members,
    )
    merged = facts.merge.members if facts.merge else ()
    members = members_by_name(merged, options.with_members)
    for model in (folder, *members.values()):
        check_model(model)
    return Bundle(folder, facts, measured, members)


def _send(folder: Path, repo_id: str, options: PushOptions) -> str:
    hub = HfApi()
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    with pushing(repo_id, hub, options.quiet, _ADVICE):
        make_repository(hub, repo_id, "model", options.private)
        branch = options.revision
        if branch and not options.create_pr and not branch.startswith(_PULL_REQUESTS):
            hub.create_branch(repo_id, branch=branch, exist_ok=True)
        head = hub.model_info(repo_id, revision=branch)
        there = [sibling.rfilename for sibling in head.siblings or ()]
        check_ours(hub, repo_id, "model", str(head.sha), there)
        title = f"revt_hf {__version__}: model {_digest(files)}"
        opened = _opened(hub, repo_id, title) if options.create_pr else None
        if opened:
            return opened
        stale = [name for name in there if is_own(name) and name not in files]
        done = hub.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name, is_folder=False) for name in stale),
            ],
            commit_message=title,
            revision=branch,
            create_pr=options.create_pr,
            # A commit made in the meantime is not overwritten.
            parent_commit=head.sha,
        )
    if done.pr_url:
        return done.pr_url
    return f"{hub.endpoint}/{repo_id}{f'/tree/{branch}' if branch else ''}"


def _opened(hub: HfApi, repo_id: str, title: str) -> str | None:
    """The open pull request of the same content, if there is one."""
    requests = hub.get_repo_discussions(
        repo_id, discussion_type="pull_request", discussion_status="open"
    )
    return next((request.url for request in requests if request.title == title), None)


def _digest(files: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()[:12]
