"""The table of results in every format."""

import csv
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from revt_hf.evaluation.result import read_results
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.matrix import build_tables
from revt_hf.results.rows import TableOptions
from tests.helpers.made_up_results import ALL, BASE, PAPER, result, written

DASH = "\u2013"
NOTES = [
    "Mean ± population standard deviation over n networks (seeds and heads).",
    "Bold: the best of a target domain.",
    "paper: from the README of the original implementation, not measured here; ours: measured "
    "here.",
    "† chosen: selected on town/val; the best of 5.",
    "‡ peeked: selected on a target domain: not a generalisation result (cityscapes/val; the "
    "best of 7).",
]


def text_of(folder: Path, chosen: TableFormat, *evaluations: Any, **options: Any) -> str:
    found = read_results(written(folder, *evaluations))
    return formatted(build_tables(found, TableOptions(**options)), chosen)


def test_markdown(tmp_path: Path) -> None:
    text = text_of(tmp_path, TableFormat.markdown, *ALL)
    assert text == (
        "mIoU (%), source town/val, protocol paper (1024x512)\n"
        "\n"
        "| model | n | town/val (source) | cityscapes/val (paper) | cityscapes/val (ours) "
        "| bdd100k/val (paper) | bdd100k/val (ours) | mean of targets |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| base | 2 | 72.0 ± 1.0 | – | 40.0 ± 1.0 | – | **34.0 ± 1.0** | 37.0 ± 0.0 |\n"  # noqa: RUF001
        "| ReVT {1,4,6} | 3 | 70.0 ± 0.0 | 49.96 | 43.0 ± 2.2 | 48.01 | 32.0 ± 1.6 "
        "| 37.5 ± 1.9 |\n"
        "| ensembles | 1 | 75.0 | – | **45.5** | – | – | – |\n"  # noqa: RUF001
        "| peeked ‡ | 1 | 60.0 | – | 50.0 | – | 40.0 | 45.0 |\n"  # noqa: RUF001
        "| chosen † | 1 | 73.0 | – | 45.0 | – | **34.0** | **39.5** |\n"  # noqa: RUF001
        "\n" + "\\\n".join(NOTES) + "\n"
    )


def test_names_are_escaped_in_markdown(tmp_path: Path) -> None:
    text = text_of(tmp_path, TableFormat.markdown, result("a|b*", {"x_y/val": 1.0}))
    assert "| a\\|b\\* |" in text
    assert "x\\_y/val" in text


def test_terminal(tmp_path: Path) -> None:
    text = text_of(tmp_path, TableFormat.terminal, *ALL)
    lines = text.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows[1] == [
        *("ReVT {1,4,6}", "3", "70.0±0.0", "49.96", "43.0±2.2", "48.01", "32.0±1.6", "37.5±1.9"),
    ]
    assert len(rows) == 5
    assert "(source)" in text
    assert lines[-5:] == NOTES
    assert "\x1b" not in text


def test_terminal_prints_names_as_they_are(tmp_path: Path) -> None:
    one = result("[red]x[/red]", {"d/val": 1.0}, group="[red]x[/red]")
    assert "[red]x[/red]" in text_of(tmp_path, TableFormat.terminal, one)


def test_csv_has_a_line_for_each_row_and_domain(tmp_path: Path) -> None:
    text = text_of(tmp_path, TableFormat.csv, *ALL, cost=True)
    rows = list(csv.DictReader(io.StringIO(text)))
    found = {(row["group"], row["label"]): row for row in rows}
    assert len(found) == len(rows) == 5 * 4 - 2
    assert found["ReVT {1,4,6}", "cityscapes/val"] == {
        "protocol": "paper (1024x512)",
        "source": "town/val",
        "classes": "",
        "group": "ReVT {1,4,6}",
        "kind": "merge",
        "selected_on": "",
        "label": "cityscapes/val",
        "is_source": "false",
        "mean": "43.0000",
        "std": "2.1602",
        "n": "3",
        "paper": "49.96",
        "values": "40.0 44.0 45.0",
        "parameters": "84600000.0000",
        "flops": "110200000000.0000",
        "images_per_second": "4.2500",
        "peak_mib": "901.4000",
    }
    assert found["peeked", "cityscapes/val"]["selected_on"] == "target"
    assert found["base", "town/val"]["is_source"] == "true"
    assert ("ensembles", "bdd100k/val") not in found
    assert "flops" not in text_of(tmp_path, TableFormat.csv, *ALL)


def test_csv_of_the_paper_alone(tmp_path: Path) -> None:
    text = text_of(tmp_path, TableFormat.csv, *BASE, paper="synthia")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["paper"]]
    assert len(rows) == 9 * 2
    assert [rows[0][key] for key in ("label", "paper", "n", "mean", "values")] == [
        *("cityscapes/val", "39.71", "0", "", ""),
    ]


ODD = result(
    r"[50% & \more_#1]~{x}^2 $5 <a|b> *",
    {"x_y/val": 1.0, "z/val": 2.0, "town/val": 3.0},
    group=r"[50% & \more_#1]~{x}^2 $5 <a|b> *",
)


def test_latex(tmp_path: Path) -> None:
    text = text_of(tmp_path, TableFormat.latex, *ALL)
    lines = text.splitlines()
    assert r"\begin{tabular}{lrrrrrrr}" in lines
    head = lines.index(r"\toprule")
    assert lines[head + 1 : head + 6] == [
        r"\multicolumn{2}{l}{} & \multicolumn{1}{c}{source} & \multicolumn{5}{c}{targets} \\",
        r"\cmidrule(lr){3-3} \cmidrule(lr){4-8}",
        r"\multicolumn{1}{l}{model} & \multicolumn{1}{c}{n} & \multicolumn{1}{c}{town/val} & "
        r"\multicolumn{2}{c}{cityscapes/val} & \multicolumn{2}{c}{bdd100k/val} & "
        r"\multicolumn{1}{c}{mean of targets} \\",
        r" &  &  & paper & ours & paper & ours &  \\",
        r"\midrule",
    ]
    assert (
        r"ReVT \{1,4,6\} & 3 & 70.0 $\pm$ 0.0 & 49.96 & 43.0 $\pm$ 2.2 & 48.01 & "
        r"32.0 $\pm$ 1.6 & 37.5 $\pm$ 1.9 \\"
    ) in lines
    assert r"ensembles & 1 & 75.0 & -- & \textbf{45.5} & -- & -- & -- \\" in lines
    assert r"peeked $^\ddagger$ & 1 & 60.0 & -- & 50.0 & -- & 40.0 & 45.0 \\" in lines
    assert text.isascii()


def test_latex_escapes_everything_it_reads_as_its_own(tmp_path: Path) -> None:
    text = text_of(tmp_path, TableFormat.latex, ODD)
    assert (
        r"{[}50\% \& \textbackslash{}more\_\#1]\textasciitilde{}\{x\}\textasciicircum{}2 \$5 "
        r"\textless{}a\textbar{}b\textgreater{} {*} & 3.0 & 1.0 & 2.0 & 1.5 \\"
    ) in text.splitlines()
    assert r"\multicolumn{1}{c}{x\_y/val}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    tables = text_of(tmp_path / "a", TableFormat.latex, *ALL, ODD, cost=True, paper="all")
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
        f"{tables}\\end{{document}}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


class Fragment(HTMLParser):
    """Rows of cells with the columns and rows that they span; refuses unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, int, int]]] = []
        self.strong: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        values = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            span = int(values.get("colspan") or 1), int(values.get("rowspan") or 1)
            self.rows[-1].append(("", *span))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "tr" in self.open and {"td", "th"} & set(self.open):
            text, *span = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, *span)  # type: ignore[assignment]
        if "strong" in self.open:
            self.strong.append(data)


@pytest.mark.parametrize("options", [{}, {"cost": True}, {"classes": "synthia16"}])
def test_html_headings_cover_the_columns(tmp_path: Path, options: dict[str, Any]) -> None:
    page = Fragment(text_of(tmp_path, TableFormat.html, *ALL, **options))
    width = len(page.rows[-1])
    covered = [0] * width
    levels = len(page.rows) - 5
    for number, row in enumerate(page.rows[:levels]):
        column = 0
        for _, columns, rows in row:
            while covered[column] > number:
                column += 1
            for _ in range(columns):
                covered[column] = number + rows
                column += 1
    assert covered == [levels] * width


def test_html(tmp_path: Path) -> None:
    html = text_of(tmp_path, TableFormat.html, *ALL)
    page = Fragment(html)
    assert [text for text, *_ in page.rows[4]] == [
        *("ReVT {1,4,6}", "3", "70.0 ± 0.0", "49.96", "43.0 ± 2.2", "48.01"),
        *("32.0 ± 1.6", "37.5 ± 1.9"),
    ]
    assert page.strong == ["34.0 ± 1.0", "45.5", "34.0", "39.5"]
    assert '<td class="source">70.0 ± 0.0</td>' in html
    assert all(f"<p>{note}</p>" in html for note in NOTES)
    # It stands alone.
    assert "http" not in html
    assert "<script" not in html


def test_names_are_escaped_in_html(tmp_path: Path) -> None:
    one = result("m", {"<b>/val": 1.0}, group="<script>&")
    html = text_of(tmp_path, TableFormat.html, one)
    assert "&lt;script&gt;&amp;" in html
    assert "&lt;b&gt;/val" in html
    assert "<script>" not in html


@pytest.mark.parametrize("chosen", list(TableFormat))
def test_several_tables_are_all_there(tmp_path: Path, chosen: TableFormat) -> None:
    native = result("n", {"rain/val": 12.5}, protocol={"max_size": None}, protocol_name="native")
    text = text_of(tmp_path, chosen, *BASE, native, paper="all")
    assert "native (native size)" in text
    assert "12.5" in text
    for number in ("49.96", "39.62"):
        assert number in text
    assert text.endswith("\n")


def test_a_network_with_a_row_of_the_paper_shows_it_in_every_format(tmp_path: Path) -> None:
    one = result("m", {"bdd100k/val": 12.5}, paper=PAPER)
    for chosen in TableFormat:
        text = text_of(tmp_path, chosen, one)
        assert "48.01" in text
        assert "49.96" not in text
