"""The tables of ``revt table`` in a Markdown file, each between two comments.

``<!-- results:begin revt table docs/results/streets.json --paper all -->`` holds the command, with
paths relative to the file's folder; ``<!-- results:end -->`` ends the table. Each is a line of its
own, not in a code block.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from revt_hf.core.errors import UserError

_BEGIN = re.compile(r"<!--\s*results:begin\b(.*?)-->\s*")
_END = re.compile(r"<!--\s*results:end\s*-->\s*")


@dataclass(frozen=True)
class Section:
    """Lines of a Markdown file that a command makes."""

    begin: int
    end: int
    words: tuple[str, ...]


def sections_of(text: str, path: Path) -> list[Section]:
    """The parts of a Markdown text that are made by ``revt table``."""
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


def renewed(
    path: Path,
    table: Callable[[Sequence[str], str], str],
    words: Sequence[str] | None = None,
) -> tuple[str, str]:
    """A Markdown file as it is, and as it is with its tables made anew."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    sections = sections_of(text, path)
    if not sections:
        raise UserError(
            f"{path} has no lines <!-- results:begin revt table RESULTS --> and "
            "<!-- results:end -->: put them where the table shall be"
        )
    if words is not None and len(sections) > 1:
        raise UserError(f"{path} has {len(sections)} tables: name the results in its comments")
    lines = text.splitlines()
    for section in reversed(sections):
        begin = lines[section.begin] if words is None else _begin(shlex.join(words))
        place = f"{path}, line {section.begin + 1}: results:begin"
        made = table(section.words if words is None else words, place).splitlines()
        lines[section.begin : section.end] = [begin, "", *made, ""]
    return text, "\n".join(lines) + "\n"


def _begin(words: str) -> str:
    if "-->" in words or not words.isprintable():
        raise UserError(f"{words!a} cannot stand in a comment of Markdown: rename the results")
    return f"<!-- results:begin {words} -->"
