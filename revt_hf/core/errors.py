"""The error and the warning that a user's input can cause, and how names appear in them."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Control and invisible characters, changes of the writing direction, invalid bytes of names.
_HIDDEN = (
    r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\ud800-\udfff"
)
_LONGEST = 2000
_IN_LINES = re.compile(rf"\r(?!\n)|[{_HIDDEN}]")
_IN_A_LINE = re.compile(rf"[\t\n\r{_HIDDEN}]")


def printable(text: str, lines: bool = False) -> str:
    """Escape what would move the cursor, colour or reorder text; but for ``lines``, end a line."""
    pattern = _IN_LINES if lines else _IN_A_LINE
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(line: str) -> None:
    """Print one line, whatever names it contains."""
    print(printable(line))


def plain(name: str) -> str:
    """A class name for comparison: without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def shortened(text: str, longest: int = 100) -> str:
    """The first characters of a long text, then ``...``."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# Messages of torch and safetensors, instead of an OSError, when a file cannot be written.
_WRITE_ERRORS = ("PytorchStreamWriter failed", "inline_container", "unexpected pos", "I/O error")
# Errors of a file system in the middle of a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_QUOTED = re.compile(r"\(os error (\d{1,4})\)")
# Hidden folders of unfinished outputs.
_BESIDE = re.compile(r"(?<![^/])\.([^/]+)\.revt-(?:training|new|preparing)(?![^/])")


class UserError(Exception):
    """Bad input, described in one sentence: the file, key or value, and what to do about it.

    The command line prints the sentence and exits with code 2; library users catch it. The message
    is made :func:`printable`.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader re-raises a worker's error with the worker's traceback as its message.
        if "Original Traceback" in message:
            message = message.rsplit("UserError: ", 1)[-1].strip()
        if len(message) > _LONGEST:
            # The sentence quotes a whole file; its end says what to do.
            message = f"{message[: _LONGEST * 2 // 3]} ... {message[-_LONGEST // 4 :]}"
        super().__init__(printable(message))


class DataWarning(UserWarning):
    """Data that can be used, but differ from the official dataset."""


@contextmanager
def readable(what: str | Path) -> Iterator[None]:
    """Turn errors of opening and decoding a file into a UserError that names it."""
    try:
        yield
    except (OSError, ValueError) as error:  # a path or text with bytes that cannot be
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {what}: {reason}") from error


@contextmanager
def readable_os_errors(target: Path) -> Iterator[None]:
    """Turn write errors of the file system, torch and safetensors into one of ``target``."""
    name = _BESIDE.sub(r"\1", str(target))
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {name}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:
        # By message, not type: torch and safetensors are not imported here.
        if any(words in str(error) for words in _WRITE_ERRORS):
            raise UserError(f"cannot write {name}: {_write_problem(error)}") from error
        raise


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes, the outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _write_problem(error: Exception) -> str:
    """The system's error; torch keeps it as the context, safetensors quotes its number."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return os.strerror(cause.errno)
    quoted = _QUOTED.search(str(error))
    if quoted:
        return os.strerror(int(quoted[1]))
    return "is there no space left on the device, or is it damaged?"
