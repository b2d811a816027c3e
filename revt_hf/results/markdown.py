"""Foreign text in Markdown, YAML and shell lines, and the tables of ``revt table`` in Markdown.

Names of folders, files and datasets stay text in every renderer (the Hub's, GitHub's, MkDocs'):
characters that any of them would interpret as markup become HTML entities, which all of them show
as plain characters.

A table is between two comments, each a line of its own, not in a code block:
``<!-- results:begin revt table docs/results/streets.json --paper all -->`` holds the command, with
paths relative to the file's folder; ``<!-- results:end -->`` ends the table.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from revt_hf.core.errors import UserError, readable

_BEGIN = re.compile(r"<!--\s*results:begin\b(.*?)-->\s*")
_END = re.compile(r"<!--\s*results:end\s*-->\s*")

# These break out of a code span or a table cell.
_NOT_IN_CODE = re.compile(r"[`<>&|\\]|\]\(")
_ENTITIES = {symbol: f"&#{ord(symbol)};" for symbol in "`\\~$>[]"} | {"<": "&lt;"}
_BACKSLASHED = {symbol: f"\\{symbol}" for symbol in "*_|"}
_MARKUP = str.maketrans({**_ENTITIES, **_BACKSLASHED})
_ENTITY = re.compile(r"&(?=#|\w+;)")
# GitHub makes links of bare addresses.
_ADDRESS = re.compile(r"(?i)(?<=[a-z]):(?=//)|(?<=\bwww)\.")
_BLOCK = re.compile(r"[#+=>-]|\d+(?=[.)])")
_MARKS = re.compile(r"[<`]|\]\(")


def text(value: str, begins_line: bool = False) -> str:
    """Plain text within a line or a cell of a table: no markup, no HTML, no link."""
    shown = _ENTITY.sub("&amp;", _one_line(value)).translate(_MARKUP)
    shown = _ADDRESS.sub(lambda found: f"&#{ord(found[0])};", shown)
    begin = _BLOCK.match(shown) if begins_line else None
    if begin:
        # A number is harmless without its dot.
        mark = begin.end() - 1 if len(begin[0]) == 1 and not begin[0].isdigit() else begin.end()
        shown = f"{shown[:mark]}&#{ord(shown[mark])};{shown[mark + 1 :]}"
    return shown


def code(value: str) -> str:
    """A name as inline code, also in a cell of a table."""
    shown = _one_line(value)
    if shown == value and shown and not _NOT_IN_CODE.search(shown):
        return f"`{shown}`"
    return f"<code>{text(value)}</code>"


def yaml_text(values: Any) -> str:
    """YAML without ``<``, backticks, links and ``---``: for front matter or between HTML tags."""
    written = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    # They occur between double quotes only; see _Dumper.
    return _replaced(written, "\\x{:02X}")


def json_text(written: str) -> str:
    """The same JSON without ``<``, backticks and links, which occur only in its strings."""
    return _replaced(written, "\\u{:04x}")


def shell_line(words: list[str]) -> str:
    """A command of one line for bash, without ``<``, backticks and links."""
    return " ".join(map(_shell_word, words))


def _replaced(written: str, escape: str) -> str:
    return re.sub(r"[<`]|\](?=\()", lambda found: escape.format(ord(found[0])), written)


def _one_line(value: str) -> str:
    shown = (
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in " ".join(value.split())
    )
    return "".join(shown)


def _shell_word(word: str) -> str:
    if word.isprintable() and not _MARKS.search(word):
        return shlex.quote(word)
    return f"$'{''.join(map(_shell_char, word))}'"


def _shell_char(char: str) -> str:
    if char.isprintable() and char not in "<`\\']":
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


class _Dumper(yaml.SafeDumper):
    """Puts strings that might be markup into double quotes, in which everything can be escaped."""


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    quoted = not value.isprintable() or _MARKS.search(value)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, '"' if quoted else None)


_Dumper.add_representer(str, _string)


def sections_of(text: str, path: Path) -> list[tuple[int, int, list[str]]]:
    """First line, last line and command of the parts of a Markdown text made by ``revt table``."""
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
            found.append((begin[0], number, shlex.split(begin[1])))
            begin = None
    if begin is not None:
        raise UserError(f"{path}, line {begin[0] + 1}: results:begin without results:end")
    return found


def renewed(
    path: Path, table: Callable[[Sequence[str], str], str], words: Sequence[str] | None = None
) -> tuple[str, str]:
    """A Markdown file as it is, and as it is with its tables made anew."""
    with readable(path):
        text = path.read_text(encoding="utf-8")
    sections = sections_of(text, path)
    if not sections:
        raise UserError(
            f"{path} has no lines <!-- results:begin revt table RESULTS --> and "
            "<!-- results:end -->: put them where the table shall be"
        )
    if words is not None and len(sections) > 1:
        raise UserError(f"{path} has {len(sections)} tables: name the results in its comments")
    lines = text.splitlines()
    for first, last, own in reversed(sections):
        begin = lines[first] if words is None else _begin(shlex.join(words))
        place = f"{path}, line {first + 1}: results:begin"
        made = table(own if words is None else words, place).splitlines()
        lines[first:last] = [begin, "", *made, ""]
    return text, "\n".join(lines) + "\n"


def _begin(words: str) -> str:
    if "-->" in words or not words.isprintable():
        raise UserError(f"{words!a} cannot stand in a comment of Markdown: rename the results")
    return f"<!-- results:begin {words} -->"
