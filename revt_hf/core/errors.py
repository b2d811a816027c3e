"""The one error a user's input can cause, the one warning, and how names are shown in them."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Control characters, what is invisible or changes the direction of writing, odd bytes of names.
_HIDDEN = (
    r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\ud800-\udfff"
)
_LONGEST = 2000
_IN_LINES = re.compile(rf"\r(?!\n)|[{_HIDDEN}]")
_IN_A_LINE = re.compile(rf"[\t\n\r{_HIDDEN}]")


def printable(text: str, lines: bool = False) -> str:
    """A text that can be shown: what would move the cursor, colour or reorder it is escaped.

    Args:
        text: such as a sentence that holds names from files.
        lines: leave line breaks and tabs; without, a name cannot forge a second line.
    """
    return (_IN_LINES if lines else _IN_A_LINE).sub(_escaped, text)


def say(line: str) -> None:
    """Print one line, whatever the names in it hold."""
    print(printable(line))


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


# What torch and safetensors raise in place of an OSError when a file cannot be written.
_WRITE_ERRORS = (
    "PytorchStreamWriter failed",
    "inline_container",
    "unexpected pos",
    "I/O error",
)


# What a file system says when a file was begun and cannot be gone on with.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_QUOTED = re.compile(r"\(os error (\d{1,4})\)")
# Where an output is written before it takes its place.
_BESIDE = re.compile(r"(?<![^/])\.([^/]+)\.revt-(?:training|new|preparing)(?![^/])")


class UserError(Exception):
    """Bad input, described in one sentence: the file, key or value, and what to do about it.

    The command line prints the sentence and exits with code 2; library users catch it. What is not
    :func:`printable` is escaped.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader re-raises a worker's error with the worker's traceback as its message.
        if "Original Traceback" in message:
            message = message.rsplit("UserError: ", 1)[-1].strip()
        if len(message) > _LONGEST:
            # A sentence that quotes a whole file; its end says what to do.
            message = f"{message[: _LONGEST * 2 // 3]} ... {message[-_LONGEST // 4 :]}"
        super().__init__(printable(message))


class DataWarning(UserWarning):
    """Data that can be used, but are not what the dataset officially is."""


@contextmanager
def readable_os_errors(target: Path) -> Iterator[None]:
    """Turn what the file system, torch and safetensors say into a UserError naming ``target``.

    Of a hidden folder beside an output, the output is named.
    """
    name = _BESIDE.sub(r"\1", str(target))
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {name}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:
        # Not by type: torch and safetensors are not imported here.
        if any(words in str(error) for words in _WRITE_ERRORS):
            raise UserError(f"cannot write {name}: {_write_problem(error)}") from error
        raise


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, the outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _write_problem(error: Exception) -> str:
    """What the system said; torch keeps it as the context, safetensors quotes its number."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return os.strerror(cause.errno)
    quoted = _QUOTED.search(str(error))
    if quoted:
        return os.strerror(int(quoted[1]))
    return "is there no space left on the device, or is it damaged?"
