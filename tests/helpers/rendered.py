"""What a Markdown renderer made of a text: which elements, and what stands in a table's cells."""

from html.parser import HTMLParser


def markup(html: str) -> tuple[set[str], list[str]]:
    """The names of all elements, comments as ``!--``, and the texts of the cells of tables."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.tags, reader.cells


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data

    def handle_comment(self, data: str) -> None:
        self.tags.add("!--")
