"""HTML taken apart: elements, attributes, text, and the cells of tables."""

from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "hr", "br", "input"}


class Rendered(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        # In order; comments are ``!--``.
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        # Of all tables: each cell as (text, columns, rows) that it spans.
        self.rows: list[list[tuple[str, int, int]]] = []
        self.strong: list[str] = []
        # Elements that have not ended; none after balanced HTML.
        self.open: list[str] = []
        self._pieces: list[str] = []
        self.feed(html)
        self.close()

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    @property
    def cells(self) -> list[str]:
        return [text for row in self.rows for text, *_ in row]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._pieces).split())

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attributes.get(name) for found, attributes in self.elements if found == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            span = int(values.get("colspan") or 1), int(values.get("rowspan") or 1)
            self.rows[-1].append(("", *span))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self._pieces.append(data)
        if {"td", "th"} & set(self.open):
            text, *span = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, *span)  # type: ignore[assignment]
        if "strong" in self.open:
            self.strong.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("!--", {}))
