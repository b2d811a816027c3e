"""Foreign text in Markdown, YAML and shell lines: names of folders, files and datasets stay text.

The output is safe in every renderer (the Hub's, GitHub's, MkDocs'): characters that any of them
would interpret as markup become HTML entities, which all of them show as plain characters.
"""

import re
import shlex
from typing import Any

import yaml

# These break out of a code span or a table cell.
_NOT_IN_CODE = re.compile(r"[`<>&|\\]|\]\(")
_ENTITIES = {symbol: f"&#{ord(symbol)};" for symbol in "`\\~$>[]"} | {"<": "&lt;"}
_BACKSLASHED = {symbol: f"\\{symbol}" for symbol in "*_|"}
_MARKUP = str.maketrans({**_ENTITIES, **_BACKSLASHED})
_ENTITY = re.compile(r"&(?=#|\w+;)")
# GitHub makes links of bare addresses.
_ADDRESS = re.compile(r"(?i)(?<=[a-z]):(?=//)|(?<=\bwww)\.")
_BLOCK = re.compile(r"[#+=>-]|\d+(?=[.)])")
_YAML_MARKUP = re.compile(r"[<`]|\]\(")
_SHELL_MARKUP = re.compile(r"[<`]|\]\(")


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
    """YAML that reads back as ``values`` without ``<``, backticks, links or lines of ``---``.

    It is safe in front matter, in a code block and between HTML tags.
    """
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
    if word.isprintable() and not _SHELL_MARKUP.search(word):
        return shlex.quote(word)
    return f"$'{''.join(map(_shell_char, word))}'"


def _shell_char(char: str) -> str:
    if char.isprintable() and char not in "<`\\']":
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


class _Dumper(yaml.SafeDumper):
    """Puts strings that might be markup into double quotes, in which everything can be escaped."""


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    quoted = not value.isprintable() or _YAML_MARKUP.search(value)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, '"' if quoted else None)


_Dumper.add_representer(str, _string)
