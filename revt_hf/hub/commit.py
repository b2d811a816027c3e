"""Pushing to the Hub: its IDs, the token, no local paths, and one sentence for every failure."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    hf_raise_for_status,
    validate_repo_id,
)

from revt_hf.checkpoints import hub_requests
from revt_hf.checkpoints.hub_requests import bounded_requests, failed_transport
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError, causes
from revt_hf.results.markdown import yaml_text

Kind = Literal["model", "dataset", "space"]
CARD_FILE = "README.md"
HUB_URL = "https://huggingface.co"
# Marks the card of a repository that was pushed from here and may be replaced.
MARKER = "<!-- Written by revt_hf: the next push replaces this card. -->"
PUBLIC = "the {} exists already and is public: make it private first, or choose another"
# The Hub adds it to every new repository.
_GIVEN = ".gitattributes"
# Values of these keys are paths, even relative ones.
_KEYS = frozenset({"data_dir", "prepared", "init", "mixing", "path", "head", "_name_or_path"})
_ABSOLUTE = re.compile(r"\s*(file:|/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\)")
# In a longer text: from the begin of a path to a space or bracket. URLs have a colon before it.
_INSIDE = re.compile(
    r"(?<![\w/\\:.~*)\]])(?:file:/+|/(?=\w)|~[\w.-]*/|[A-Za-z]:[/\\]|\\\\)[^\s'\"`,;()\[\]{}<>|]+"
)
_SECRETS = re.compile(r"\bhf_\w{8,}|(?<=://)[^/@\s]+@")
_NAMELESS = "folder"
_REFUSALS = {
    (401, 403): "the Hub refused the token (status {}): it needs the right to write",
    (404,): "there is no such repository or branch, or the token may not see it (status {})",
    (409, 412): "the repository was changed at the same time (status {})",
    (400, 413, 422): "the Hub did not accept what it was sent (status {})",
}


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hub, and the task of its leaderboard if it is a benchmark there."""

    id: str
    task: str | None = None


@dataclass(frozen=True)
class Published:
    """A model that is published, too: its ID on the Hub and its folder here."""

    repo_id: str
    folder: Path


@dataclass(frozen=True)
class Related:
    """What is published together with a model.

    Attributes:
        models: members of merges, by the sha256 of their weights' files.
        merges: Hub IDs of the merges that this model is a member of.
        table: Hub ID of the dataset with the table of all models.
    """

    models: Mapping[str, Published] = field(default_factory=dict)
    merges: Sequence[str] = ()
    table: str | None = None


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
        dataset_ids: what domains or labels of splits (``night/val``) are on the Hub.
        collection: title or slug of the collection that the repository is added to.
        related: what is published with it.
        quiet: hide progress bars.
        with_space: also publish a Space of the same ID, which the card links.
    """

    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    dry_run: str | Path | None = None
    overwrite: bool = False
    with_members: Sequence[Path] = ()
    license: str | None = None
    base_models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    dataset_ids: Mapping[str, HubDataset] = field(default_factory=dict)
    collection: str | None = None
    related: Related = Related()
    quiet: bool = False
    with_space: bool = False


def is_repo_id(text: str) -> bool:
    """Whether ``text`` is a valid Hub ID ``owner/name``."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text


def check_repo_id(repo_id: str, kind: Kind) -> None:
    if not is_repo_id(repo_id):
        raise UserError(
            f"'{repo_id}' is not the ID of a Hub {kind}: write it as owner/name, of at most 96 "
            "letters, digits, -, _ and ."
        )


def require_token() -> None:
    if huggingface_hub.get_token() is None:
        raise UserError("pushing needs a Hub token: run 'hf auth login' or set HF_TOKEN")


def open_repository(
    hub: HfApi,
    repo_id: str,
    kind: Kind,
    private: bool,
    branch: str | None = None,
    make_branch: bool = False,
) -> tuple[str, list[str]]:
    """Create a repository unless it exists; the last commit and the files of its branch."""
    # Where nothing is asked for, the owner's account decides.
    sdk = "gradio" if kind == "space" else None
    hub.create_repo(repo_id, repo_type=kind, exist_ok=True, private=private or None, space_sdk=sdk)
    if private and not hub.repo_info(repo_id, repo_type=kind).private:
        raise UserError(PUBLIC.format(f"Hub {kind} {repo_id}"))
    if branch and make_branch:
        hub.create_branch(repo_id, branch=branch, exist_ok=True)
    return _checked_head(hub, repo_id, kind, branch)


def check_repository(hub: HfApi, repo_id: str, kind: Kind, private: bool) -> bool:
    """Whether a repository exists; refuses one that a push must not change, changing nothing."""
    try:
        about: Any = hub.repo_info(repo_id, repo_type=kind)
    except RepositoryNotFoundError:
        return False
    if private and not about.private:
        raise UserError(PUBLIC.format(f"Hub {kind} {repo_id}"))
    _checked_head(hub, repo_id, kind)
    return True


def _checked_head(
    hub: HfApi, repo_id: str, kind: Kind, branch: str | None = None
) -> tuple[str, list[str]]:
    head: Any = hub.repo_info(repo_id, repo_type=kind, revision=branch)
    there = [sibling.rfilename for sibling in head.siblings or ()]
    check_ours(hub, repo_id, kind, str(head.sha), there)
    return str(head.sha), there


def check_ours(hub: HfApi, repo_id: str, kind: Kind, commit: str, there: Sequence[str]) -> None:
    """Refuse a repository with files, but without our marker in the card of this commit."""
    foreign = [name for name in there if name != _GIVEN]
    if not foreign:
        return
    if CARD_FILE in foreign:
        # hf_hub_download would leave the card in the user's cache.
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{hub.endpoint}/{prefix}{repo_id}/resolve/{commit}/{CARD_FILE}"
        card = huggingface_hub.get_session().get(url, headers=build_hf_headers())
        hf_raise_for_status(card)
        if MARKER in card.text:
            return
    raise UserError(
        f"the Hub {kind} {repo_id} exists already and holds other content ({foreign[0]}), "
        "which a push would replace: choose another id"
    )


@contextmanager
def pushing(repo_id: str, hub: HfApi, quiet: bool, advice: str) -> Iterator[None]:
    """Turn every failure of the block into one sentence without a token; it ends in ``advice``."""
    try:
        # The Hub needs time for a commit of many files.
        with ExitStack() as stack, bounded_requests(hub_requests.PATIENCE_SECONDS):
            if quiet and not are_progress_bars_disabled():
                disable_progress_bars()
                stack.callback(enable_progress_bars)
            yield
    except UserError:
        raise
    # The transport (httpx, hf_xet) decides what is raised. Messages are not passed on: some quote
    # the headers of the request, which hold the token.
    except Exception as error:  # noqa: BLE001
        sentence = f"cannot push to {repo_id}: {_failure(error, hub.endpoint)}; {advice}"
        raise UserError(sentence) from None


def _failure(error: BaseException, endpoint: str) -> str:
    """Why a request of the Hub's client failed, without the message of the error."""
    for cause in causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            known = (text for statuses, text in _REFUSALS.items() if status in statuses)
            return next(known, "the Hub answered with status {}").format(status)
        lost = failed_transport(cause, endpoint)
        if lost is not None:
            return lost
    return f"the upload broke off ({type(error).__name__})"


def last_part(path: str) -> str:
    """The last part of a path of any system, or of a Hub ID without ``@revision``."""
    plain = _without_tokens(path).strip().rstrip("/\\")
    name = re.split(r"[/\\]", plain)[-1].partition("@")[0].removeprefix("file:")
    return _NAMELESS if name in ("", ".", "..") or name.startswith("~") else name


def without_local_paths(value: Any, hub_ids: Collection[str] = (), key: str = "") -> Any:
    """The JSON value of ``key`` with only the last part of local paths, and without tokens."""
    if isinstance(value, Mapping):
        return {
            without_local_paths(str(name)): without_local_paths(inner, hub_ids, str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_local_paths(inner, hub_ids, key) for inner in value]
    if not isinstance(value, str) or value.partition("@")[0] in hub_ids:
        return value
    if key in _KEYS or _ABSOLUTE.match(value):
        return last_part(value)
    return _INSIDE.sub(lambda found: last_part(found[0]), _without_tokens(value))


def _without_tokens(text: str) -> str:
    # Names of files may hold bytes that are not UTF-8.
    return _SECRETS.sub("", text.encode("utf-8", "replace").decode())


def published_recipe(recipe: Recipe, hub_ids: Collection[str]) -> str:
    """A resolved recipe as YAML, without local paths."""
    return yaml_text(without_local_paths(recipe.model_dump(mode="json"), hub_ids))
