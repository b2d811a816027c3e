"""The part of a Markdown file that ``revt table`` writes, between two comments.

``<!-- results:begin revt table docs/results/streets.json --paper all -->`` says how it is made,
with paths relative to the file's folder; ``<!-- results:end -->`` is where it ends. Each stands
on a line of its own, not in a code block.
"""

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn

from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import read_results
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.matrix import build_tables
from revt_hf.results.rows import TableOptions

_BEGIN = re.compile(r"<!--\s*results:begin\b(.*?)-->\s*")
_END = re.compile(r"<!--\s*results:end\s*-->\s*")
_COMMAND = ["revt", "table"]


@dataclass(frozen=True)
class Section:
    """Lines of a Markdown file that are made by a command.

    Attributes:
        begin: the number of the line with the first comment, from 0.
        end: that of the line with the second one.
        words: what follows ``results:begin``.
    """

    begin: int
    end: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """What ``revt table`` is asked for: files or folders, and how to show them."""

    results: tuple[Path, ...]
    options: TableOptions


def sections_of(text: str, path: Path) -> list[Section]:
    """The parts of a Markdown text that are made by ``revt table``.

    Args:
        text: of the file.
        path: of the file, for messages.

    Raises:
        UserError: a part is not ended.
    """
    found = []
    begin: tuple[int, str] | None = None
    fenced = False
    for number, line in enumerate(text.splitlines()):
        fenced ^= line.startswith(("```", "~~~"))
        match = _BEGIN.fullmatch(line)
        if fenced:
            continue
        if match and begin is None:
            begin = number, match[1]
        elif match:
            break
        elif begin is not None and _END.fullmatch(line):
            found.append(Section(begin[0], number, tuple(shlex.split(begin[1]))))
            begin = None
    if begin is not None:
        raise UserError(f"{path}, line {begin[0] + 1}: results:begin without results:end")
    return found


def renewed(path: Path, request: Request | None = None) -> tuple[str, str]:
    """A Markdown file as it is, and as it is with its tables made anew.

    Args:
        path: of the file.
        request: instead of the one that stands in the file, and to stand there from now on.

    Raises:
        UserError: the file cannot be read or has no such part; or several, and ``request`` is
            given; or a request names results that cannot be made a table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    sections = sections_of(text, path)
    if not sections:
        raise UserError(
            f"{path} has no lines <!-- results:begin revt table RESULTS --> and "
            "<!-- results:end -->: put them where the table shall stand"
        )
    if request is not None and len(sections) > 1:
        raise UserError(f"{path} has {len(sections)} tables: name the results in its comments")
    lines = text.splitlines()
    for section in reversed(sections):
        begin = lines[section.begin]
        wanted = request
        if wanted is None:
            wanted = _parsed(section.words, path, section.begin + 1)
        else:
            begin = _begin(shlex.join(_words(wanted, path.parent)))
        tables = build_tables(read_results(wanted.results), wanted.options)
        made = formatted(tables, TableFormat.markdown).splitlines()
        lines[section.begin : section.end] = [begin, "", *made, ""]
    return text, "\n".join(lines) + "\n"


def _begin(words: str) -> str:
    if "-->" in words or not words.isprintable():
        raise UserError(f"{words!a} cannot stand in a comment of Markdown: rename the results")
    return f"<!-- results:begin {words} -->"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")


def _parsed(words: Sequence[str], path: Path, line: int) -> Request:
    """The request in a comment."""
    where = f"{path}, line {line}: results:begin"
    arguments = list(words[len(_COMMAND) :])
    if list(words[: len(_COMMAND)]) != _COMMAND or not arguments:
        raise UserError(f"{where} is to be followed by: revt table RESULTS...")
    parser = _Parser(prog=where, add_help=False, allow_abbrev=False)
    parser.add_argument("results", nargs="+")
    for option in fields(TableOptions):
        kind = "store_true" if option.default is False else "store"
        parser.add_argument(_flag(option.name), action=kind, default=option.default)
    values = vars(parser.parse_intermixed_args(arguments))
    results = tuple(path.parent / name for name in values.pop("results"))
    return Request(results, TableOptions(**values))


def _words(request: Request, folder: Path) -> list[str]:
    """The other way round."""
    words = [os.path.relpath(result, folder) for result in request.results]
    for option in fields(TableOptions):
        value = getattr(request.options, option.name)
        if value != option.default:
            words += [_flag(option.name), *([] if value is True else [value])]
    return [*_COMMAND, *words]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
