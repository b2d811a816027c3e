"""Asking the Jobs API of the Hub: refusals and lost answers are one sentence without secrets."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from revt_hf.checkpoints.hub_requests import LOGIN, bounded_requests, failed_transport
from revt_hf.core.errors import UserError, causes, shortened

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PATIENCE_SECONDS = 60
_UNAUTHORIZED, _NOT_FOUND = 401, 404
# Of 400 to 499, those that say: not now.
_LATER = (408, 429)
# Shorter ones would replace half of a message.
_SHORTEST_LINE = 4


class NoAnswerError(UserError):
    """The Hub gave no answer, or a broken one: asking again may help."""


@contextmanager
def asking(
    secrets: dict[str, str],
    failure: str,
    on_refusal: Callable[[], None] = lambda: None,
    if_gone: str = "",
) -> Iterator[None]:
    """Turn a refusal of the Hub, or no answer, into one sentence without secrets.

    Args:
        secrets: names and values of what no message may contain.
        failure: what did not work, as the beginning of the sentence.
        on_refusal: called if the Hub understood and refused.
        if_gone: the end of the sentence if the Hub does not know what was asked for.

    Raises:
        UserError: the Hub refused.
        NoAnswerError: it may still answer.
    """
    from huggingface_hub import constants, errors

    try:
        with bounded_requests(_PATIENCE_SECONDS):
            yield
    except UserError:
        raise
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{failure}: {LOGIN}") from None
    # The transport decides what is raised; its own messages may quote headers with the token.
    except Exception as error:  # noqa: BLE001
        for cause in causes(error):
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if status is not None:
                refused = 400 <= status < 500
                if refused:
                    on_refusal()
                said = without(str(getattr(cause, "server_message", None) or ""), secrets)
                why = f"the Hub answered with status {status}"
                why += f": {shortened(' '.join(said.split()), 300)}" if said else ""
                why += f"; {LOGIN}" if status == _UNAUTHORIZED else ""
                why += f"; {if_gone}" if if_gone and status == _NOT_FOUND else ""
                kind = UserError if refused and status not in _LATER else NoAnswerError
                raise kind(f"{failure}: {why}") from None
            if (lost := failed_transport(cause, constants.ENDPOINT)) is not None:
                raise NoAnswerError(f"{failure}: {lost}") from None
        raise NoAnswerError(f"{failure}: its answer is broken ({type(error).__name__})") from None


def without(text: str, secrets: dict[str, str]) -> str:
    """A text with names instead of secrets; logs come in lines, so each line of one counts."""
    from huggingface_hub import get_token

    parts = [
        (part, name)
        for name, value in [*secrets.items(), ("HF_TOKEN", get_token() or "")]
        for part in (value, *(line.strip() for line in value.splitlines()))
        if part and (part == value or len(part) >= _SHORTEST_LINE)
    ]
    # A secret may be a part of another.
    for part, name in sorted(parts, key=lambda pair: -len(pair[0])):
        text = text.replace(part, f"({name})")
    return text


def jobs_api() -> "HfApi":
    """The client of the Hub; refuses a version of huggingface_hub without Jobs, or their labels."""
    import huggingface_hub

    needed = {
        "run_job": {"image", "command", "env", "secrets", "flavor", "timeout", "labels", "volumes"},
        "list_jobs": {"labels"},
        "inspect_job": {"job_id"},
        "fetch_job_logs": {"tail"},
    }
    for name, parameters in needed.items():
        function = getattr(huggingface_hub.HfApi, name, None)
        known = set(inspect.signature(function).parameters) if function else set()
        if lacking := sorted(parameters - known):
            version = huggingface_hub.__version__
            raise UserError(
                f"huggingface_hub {version} cannot do this ({name} has no {', '.join(lacking)}): "
                "pip install -U huggingface_hub"
            )
    return huggingface_hub.HfApi()
