"""What every push to the Hub needs: ids, a token, patience, and one sentence for any failure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

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
# Tells a repository that was pushed from here, whose card may be replaced.
MARKER = "<!-- Written by revt_hf: the next push replaces this card. -->"
# The Hub puts it into every new repository.
_GIVEN = ".gitattributes"
_WORDS = {"model": "model", "dataset": "dataset"}


def is_repo_id(text: str) -> bool:
    """Whether ``text`` can be the id ``owner/name`` of a Hub repository."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text


def check_repo_id(repo_id: str, kind: Kind) -> None:
    """Refuse what cannot be the id of a Hub repository.

    Raises:
        UserError: it is not ``owner/name``.
    """
    if not is_repo_id(repo_id):
        raise UserError(
            f"'{repo_id}' is not the id of a Hub {_WORDS[kind]}: write it as owner/name, of "
            "letters, digits, -, _ and ."
        )


def require_token() -> None:
    """Refuse to start without a token.

    Raises:
        UserError: there is none.
    """
    if huggingface_hub.get_token() is None:
        raise UserError("pushing needs a token of the Hub: run 'hf auth login' or set HF_TOKEN")


def make_repository(hub: HfApi, repo_id: str, kind: Kind, private: bool) -> None:
    """Make a repository unless it exists.

    Args:
        hub: where.
        repo_id: its id.
        kind: what it holds.
        private: it is for its owner alone; otherwise as its owner's account has it.

    Raises:
        UserError: it should be private, but exists and is public.
        Exception: whatever the Hub's client raises; see :func:`pushing`.
    """
    hub.create_repo(repo_id, repo_type=kind, exist_ok=True, private=private or None)
    if private and not hub.repo_info(repo_id, repo_type=kind).private:
        raise UserError(
            f"the Hub {_WORDS[kind]} {repo_id} exists already and is public: make it private "
            "first, or choose another id"
        )


def check_ours(hub: HfApi, repo_id: str, kind: Kind, commit: str, there: Sequence[str]) -> None:
    """Refuse a repository that holds something else than what was pushed from here.

    Args:
        hub: where.
        repo_id: its id.
        kind: what it holds.
        commit: of the branch that is pushed to.
        there: the names of its files.

    Raises:
        UserError: it holds files, and no card of ours.
        Exception: whatever the Hub's client raises; see :func:`pushing`.
    """
    foreign = [name for name in there if name != _GIVEN]
    if not foreign:
        return
    if CARD_FILE in foreign:
        # Not hf_hub_download: it would leave the card in the user's cache.
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{hub.endpoint}/{prefix}{repo_id}/resolve/{commit}/{CARD_FILE}"
        card = huggingface_hub.get_session().get(url, headers=build_hf_headers())
        hf_raise_for_status(card)
        if MARKER in card.text:
            return
    raise UserError(
        f"the Hub {_WORDS[kind]} {repo_id} exists already and holds other content ({foreign[0]}), "
        "which a push would replace: choose another id"
    )


@contextmanager
def pushing(repo_id: str, hub: HfApi, quiet: bool, advice: str) -> Iterator[None]:
    """Push within this block: what fails is one sentence that holds no token.

    Args:
        repo_id: what is pushed to.
        hub: where.
        quiet: no progress bars.
        advice: what to do after a failure; it ends the sentence.

    Raises:
        UserError: the Hub cannot be reached or refuses, whatever its client raised.
    """
    try:
        # A commit of many files takes the Hub its time.
        with _bars(not quiet), bounded_requests(hub_requests.PATIENCE_SECONDS):
            yield
    except UserError:
        raise
    # What a push raises is up to its transport (httpx, hf_xet). Messages are not passed on: some
    # quote the request's headers, and those hold the token.
    except Exception as error:
        sentence = f"cannot push to {repo_id}: {failure(error, hub.endpoint)}; {advice}"
        raise UserError(sentence) from None


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    hidden = are_progress_bars_disabled()
    if not shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if not (shown or hidden):
            enable_progress_bars()


def failure(error: BaseException, endpoint: str) -> str:
    """Why a request failed, without a word of the error's own message.

    Args:
        error: what the Hub's client raised.
        endpoint: the Hub's address.
    """
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
