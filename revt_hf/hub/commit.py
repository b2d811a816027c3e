"""Pushing to the Hub: repository IDs, the token, and one sentence for every failure."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
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
from revt_hf.core.errors import UserError, causes

Kind = Literal["model", "dataset"]
CARD_FILE = "README.md"
# Marks the card of a repository that was pushed from here and may be replaced.
MARKER = "<!-- Written by revt_hf: the next push replaces this card. -->"
# The Hub adds it to every new repository.
_GIVEN = ".gitattributes"


def is_repo_id(text: str) -> bool:
    """Whether ``text`` is a valid Hub ID ``owner/name``."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text


def check_repo_id(repo_id: str, kind: Kind) -> None:
    """Refuse an invalid Hub ID."""
    if not is_repo_id(repo_id):
        raise UserError(
            f"'{repo_id}' is not the ID of a Hub {kind}: write it as owner/name, of "
            "letters, digits, -, _ and ."
        )


def require_token() -> None:
    """Refuse to push without a token."""
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
    """Create a repository unless it exists; the last commit and the files of its branch.

    Refuses a repository that should be private but is public, or holds content from elsewhere.
    """
    # Where nothing is asked for, the owner's account decides.
    hub.create_repo(repo_id, repo_type=kind, exist_ok=True, private=private or None)
    if private and not hub.repo_info(repo_id, repo_type=kind).private:
        raise UserError(
            f"the Hub {kind} {repo_id} exists already and is public: make it private "
            "first, or choose another id"
        )
    if branch and make_branch:
        hub.create_branch(repo_id, branch=branch, exist_ok=True)
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
            return _refusal(status)
        lost = failed_transport(cause, endpoint)
        if lost is not None:
            return lost
    return f"the upload broke off ({type(error).__name__})"


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"the Hub refused the token (status {status}): it needs the right to write"
    if status == 404:
        return "there is no such repository or branch, or the token may not see it (status 404)"
    if status in (409, 412):
        return f"the repository was changed at the same time (status {status})"
    if status in (400, 413, 422):
        return f"the Hub did not accept what it was sent (status {status})"
    return f"the Hub answered with status {status}"
