"""Child processes that end with their parent, even if it is killed."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import BinaryIO

_POLL_SECONDS = 0.1
# torchrun gives its own processes 30 seconds.
_GRACE_SECONDS = 40.0
_LINES = 200
_LINE_BYTES = 1 << 16


class Child:
    """A command in its own process group that ends with this process; ``log`` gets its output.

    A watcher process runs the command until its own standard input ends. The system closes that
    even after a kill of this process. The watcher then ends the whole group.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "revt_hf.core.child", *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C goes to this process only, which then ends its children.
            start_new_session=True,
        )
        self._last: deque[str] = deque(maxlen=_LINES)
        self._reader = Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """The exit code; None while the command runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(_GRACE_SECONDS)
        return code

    def stop(self) -> None:
        """Ask the command to end; then :meth:`wait`."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until the command and everything it started are gone."""
        self._process.wait()
        self._reader.join(_GRACE_SECONDS)

    def said(self) -> list[str]:
        """The last lines of the command's output."""
        return list(self._last)

    def _read(self, log: Path) -> None:
        """Keep the last lines even if the log cannot be written, as on a full disk."""
        said = self._process.stdout
        if said is None:
            return
        with contextlib.ExitStack() as stack:
            file: BinaryIO | None = None
            with contextlib.suppress(OSError):
                file = stack.enter_context(log.open("wb", buffering=0))
            for line in iter(lambda: said.readline(_LINE_BYTES), b""):
                self._last.append(line.decode(errors="replace").rstrip())
                if file is not None:
                    with contextlib.suppress(OSError):
                        file.write(line)


def _watch(command: Sequence[str]) -> int:
    """Run a command until it or standard input ends; returns its exit code."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"error: cannot start {command[0]}: {error.strerror or error}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while process.poll() is None and not _parent_gone():
            pass
    finally:
        _end_group(process)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _parent_gone() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Terminate what is left of a process group; kill it if that takes too long."""
    number: int
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                return
            # Once is enough; from here on, only check whether the group still exists.
            number = 0
            time.sleep(_POLL_SECONDS / 2)


if __name__ == "__main__":
    sys.exit(_watch(sys.argv[1:]))
