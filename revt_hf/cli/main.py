"""The start of ``revt``: one sentence for user errors, remarks as plain lines, ends by signals.

``revt merge`` goes its own way from here: what the other commands import takes longer than
merging a small model.
"""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, TextIO

from revt_hf.core.errors import DataWarning, UserError, printable

EXIT_BAD_INPUT = 2
_SIGNALLED = 128
_LATER = 0.05  # seconds
_SPIN_COUNT = "20000"
_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; predictable errors are one sentence and exit code 2.

    Ended by a signal, it removes what it has begun to write and exits as shells do: 130 after
    Ctrl-C, 143 after SIGTERM, 141 where nobody reads its output any more.

    Raises:
        SystemExit: always.
    """
    # OpenMP threads that spin at barriers for long make shared machines many times slower; it
    # must be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    _speak()
    arguments = sys.argv[1:] if arguments is None else arguments
    with _shown_output(), _signals_as_exits() as ended:
        code = _code(arguments)
        sys.exit(_SIGNALLED + ended[0] if ended else code)


def _code(arguments: Sequence[str]) -> int:
    """The exit code of a call; what went wrong is said."""
    try:
        code = _call(arguments)
        sys.stdout.flush()
        if not code and getattr(sys.stdout, "lost", False) and not _kept_elsewhere(arguments):
            raise UserError("standard output is closed: what was to be printed is lost")
        return code
    except UserError as error:
        problem = str(error)
    except KeyboardInterrupt:
        return _SIGNALLED + signal.SIGINT
    except BrokenPipeError:
        _close_output()
        return _SIGNALLED + signal.SIGPIPE
    except MemoryError:
        problem = "there is not enough memory for this"
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        problem = (
            "a process that loads images was ended from outside, for example because memory ran "
            "out: try fewer workers"
        )
    except OSError as error:
        # Errors of the system, such as a full disk; others are libraries' own, and ours to see.
        if error.errno is None:
            raise
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        problem = ": ".join([*names, error.strerror or str(error)])
        if error.errno in (errno.EROFS, errno.EACCES) and any(".cache" in name for name in names):
            problem += ": set HF_HOME to a folder that can be written"
    with contextlib.suppress(OSError):
        print(f"error: {printable(problem)}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _kept_elsewhere(arguments: Sequence[str]) -> bool:
    """Whether what a command does is more than what it prints."""
    given = {argument.partition("=")[0] for argument in arguments}
    return arguments[:1] in (["demo"], ["push"]) or not given.isdisjoint(("--json", "--output"))


def _call(arguments: Sequence[str]) -> int:
    """Run a command; its exit code.

    Raises:
        UserError: also for options that are wrong or missing.
    """
    for argument in arguments:
        # Neither safetensors nor Arrow nor JSON can hold such names.
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise UserError(f"{argument}: this name is not UTF-8: rename it")
    if arguments[:1] == ["merge"]:
        from revt_hf.cli.merge import merge_command

        merge_command(arguments[1:])
        return 0
    import typer

    from revt_hf.cli.app import app

    command = typer.main.get_command(app)
    try:
        # Not command.main, which has its own ways of saying what is wrong.
        with command.make_context("revt", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return _SIGNALLED + signal.SIGINT
    except Exception as error:
        sentence = _usage_sentence(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error
    return 0


def _usage_sentence(error: Exception) -> str | None:
    """What is wrong with the options; None if that is not what the error is about."""
    # Typer brings its own copy of click in some versions, so it has no class to ask for.
    describe = getattr(error, "format_message", None)
    if describe is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "revt"
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"say what to do: {command} --help lists the commands"
    problem = " ".join(str(describe()).split()).rstrip(".")
    return f"{problem[:1].lower()}{problem[1:]} ({command} --help lists the options)"


@contextlib.contextmanager
def _signals_as_exits() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does, so that scratch folders and children go.

    Gives a list that takes the signal.
    """

    ended: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        ended.append(number)
        # Whoever insists must use SIGKILL: cleaning up is not to be interrupted.
        signal.signal(number, lambda *_: None)
        sys.exit(_SIGNALLED + number)

    def again(lost: Any) -> None:
        # Raised where nothing can be, as in what Python calls when it forks: a little later.
        if lost.exc_type is SystemExit and ended:
            signal.signal(signal.SIGALRM, lambda *_: end(ended[0], None))
            signal.setitimer(signal.ITIMER_REAL, _LATER)
        else:
            hook(lost)

    before = {}
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Not those that are ignored, as under nohup, nor in other threads than the main one.
            with contextlib.suppress(ValueError):
                if signal.getsignal(number) is signal.SIG_DFL:
                    before[number] = signal.signal(number, end)
        yield ended
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


class _Shown:
    """Standard output that shows names from files escaped; ``stream`` is for what draws on it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        # Colours of tables and help; nothing else of theirs is needed on a terminal.
        parts = _COLOUR.split(text) if self.stream.isatty() else [text]
        parts[::2] = [printable(part, lines=True) for part in parts[::2]]
        return self.stream.write("".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Closed(_Shown):
    """In place of a standard output that was closed before the start."""

    lost = False

    def write(self, text: str) -> int:
        self.lost = True
        return len(text)


@contextlib.contextmanager
def _shown_output() -> Iterator[None]:
    """Escape control characters of what is printed."""
    before: Any = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Names of files may hold what the terminal's encoding has not.
            stream.reconfigure(errors="backslashreplace")
    if before is None:
        sys.stdout = _Closed(open(os.devnull, "w"))  # noqa: PTH123, SIM115
    else:
        sys.stdout = _Shown(before)
    try:
        yield
    finally:
        sys.stdout = before


def _close_output() -> None:
    """Python would complain at its end of what it still wanted to write."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


class _Remarks(logging.Handler):
    """Plain lines on whatever standard error is at the moment, each of them once."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        remark = printable(self.format(record))
        if remark not in self.said:
            self.said.add(remark)
            print(remark, file=sys.stderr)


def _speak() -> None:
    """What the package logs and warns of, as plain lines beside the results."""
    log = logging.getLogger("revt_hf")
    log.handlers = [_Remarks()]
    log.setLevel(logging.INFO)
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, DataWarning):
            print(f"warning: {printable(str(message))}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show


if __name__ == "__main__":
    main()
