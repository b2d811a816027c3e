"""The start of ``revt``: one sentence for user errors, remarks as plain lines.

``revt merge`` goes its own way from here: what the other commands import takes longer than
merging a small model.
"""

import logging
import os
import sys
import warnings
from typing import Any

from revt_hf.errors import DataWarning, UserError

EXIT_BAD_INPUT = 2
_SPIN_COUNT = "20000"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; user errors are one sentence and exit code 2."""
    # OpenMP threads that spin at barriers for long make shared machines many times slower; it
    # must be said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    _speak()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["merge"]:
            from revt_hf.cli_merge import merge_command

            merge_command(arguments[1:])
            sys.exit()
        from revt_hf.cli_app import app

        app(args=arguments, prog_name="revt")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


class _Remarks(logging.Handler):
    """Plain lines on whatever standard error is at the moment, each of them once."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        remark = self.format(record)
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
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show


if __name__ == "__main__":
    main()
