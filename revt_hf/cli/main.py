"""The entry point of ``revt``: one sentence for user errors, plain remarks, silent signals."""

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
    """Run the command line and exit: 2 after an error, 128 and the number after a signal."""
    # OpenMP threads that spin for long at barriers make shared machines many times slower; the
    # variable is read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    # So do those of NumPy's OpenBLAS: with two, a merge by singular values took more than three
    # times as long. Torch's wheels for x86 have MKL, which does not read this variable.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _log_to_stderr()
    arguments = sys.argv[1:] if arguments is None else arguments
    with _escaped_output(), _signals_as_exits() as ended:
        code = _code(arguments)
        sys.exit(_SIGNALLED + ended[0] if ended else code)


def _code(arguments: Sequence[str]) -> int:
    """Run a command, print its error and return the exit code."""
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
        # Python flushes both streams at exit and would complain.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
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
        # Only the system's errors, such as a full disk, have a number; libraries' own are bugs.
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
    """Whether a command has results beside what it prints."""
    given = {argument.partition("=")[0] for argument in arguments}
    return arguments[:1] in (["demo"], ["push"]) or not given.isdisjoint(("--json", "--output"))


def _call(arguments: Sequence[str]) -> int:
    for argument in arguments:
        # Neither safetensors nor Arrow nor JSON can hold such names.
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise UserError(f"{argument}: this name is not UTF-8: rename it")
    # Importing the other commands takes longer than merging a small model.
    if arguments[:1] == ["merge"]:
        from revt_hf.cli.merge import merge_command

        merge_command(arguments[1:])
        return 0
    import typer

    from revt_hf.cli.app import app

    command = typer.main.get_command(app)
    if "_REVT_COMPLETE" in os.environ:
        command.main(prog_name="revt")
    try:
        # Not command.main, which prints usage errors in its own format.
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
    """The problem with the options; None if the error is about something else."""
    # Some versions of typer bundle a copy of click, so there is no class to test for.
    describe = getattr(error, "format_message", None)
    if describe is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "revt"
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"name a command: {command} --help lists them"
    problem = " ".join(str(describe()).split()).rstrip(".")
    return f"{problem[:1].lower()}{problem[1:]} ({command} --help lists the options)"


@contextlib.contextmanager
def _signals_as_exits() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C; yields a list that receives the signal."""
    ended: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        ended.append(number)
        # Nothing but SIGKILL may interrupt the clean-up.
        signal.signal(number, lambda *_: None)
        sys.exit(_SIGNALLED + number)

    def again(lost: Any) -> None:
        # Python drops what is raised in some places, such as its fork hooks: raise it again later.
        if lost.exc_type is SystemExit and ended:
            signal.signal(signal.SIGALRM, lambda *_: end(ended[0], None))
            signal.setitimer(signal.ITIMER_REAL, _LATER)
        else:
            hook(lost)

    before = {}
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Ignored signals stay ignored (nohup), and only the main thread may set handlers.
            with contextlib.suppress(ValueError):
                if signal.getsignal(number) is signal.SIG_DFL:
                    before[number] = signal.signal(number, end)
        yield ended
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


class _Escaped:
    """Standard output on which names from files are escaped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        # Tables and help need colours on a terminal, and no other escape sequence.
        parts = _COLOUR.split(text) if self.stream.isatty() else [text]
        parts[::2] = [printable(part, lines=True) for part in parts[::2]]
        return self.stream.write("".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Closed(_Escaped):
    """Replaces a standard output that was closed before the start."""

    lost = False

    def write(self, text: str) -> int:
        self.lost = True
        return len(text)


@contextlib.contextmanager
def _escaped_output() -> Iterator[None]:
    before: Any = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # The terminal's encoding may lack letters in names of files.
            stream.reconfigure(errors="backslashreplace")
    if before is None:
        sys.stdout = _Closed(open(os.devnull, "w"))  # noqa: PTH123, SIM115
    else:
        sys.stdout = _Escaped(before)
    try:
        yield
    finally:
        sys.stdout = before


class _Remarks(logging.Handler):
    """Log records as plain lines on the current standard error, each line once."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        remark = printable(self.format(record))
        if remark not in self._printed:
            self._printed.add(remark)
            print(remark, file=sys.stderr)


def _log_to_stderr() -> None:
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
