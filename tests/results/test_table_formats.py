"""The table of results in every format."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from revt_hf.evaluation.result import Cost
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.layout import cost_layout
from tests.helpers.golden import check_text
from tests.helpers.made_up_results import ALL, BASE, COST, NATIVE, PAPER, result, tables, texts
from tests.helpers.rendered import Rendered


def text_of(folder, chosen, *results, **options):
    return formatted(tables(folder, *results, **options), chosen)


@pytest.mark.parametrize("chosen", ["terminal", "latex", "csv", "html"])
def test_rows_of_every_kind_byte_by_byte(tmp_path, chosen):
    """In Markdown they are in tables.md."""
    text = text_of(tmp_path, TableFormat(chosen), *ALL, cost=True)
    plain = re.sub("<style>.*?</style>\n", "", text, flags=re.DOTALL)
    check_text(plain, Path(__file__).with_name(f"table.{chosen}"))
    # Nothing is loaded from elsewhere.
    assert "http" not in text and "<script" not in text


def test_csv_of_rows_that_nobody_measured(tmp_path):
    text = text_of(tmp_path, TableFormat.csv, *BASE, paper="synthia")
    assert "flops" not in text
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["paper"]]
    assert len(rows) == 9 * 2
    values = [rows[0][key] for key in ("label", "paper", "n", "mean", "values")]
    assert values == ["cityscapes/val", "39.71", "0", "", ""]


ODD = r"[50% & \more_#1]~{x}^2 $5 <a|b> *"


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (
            TableFormat.latex,
            r"{[}50\% \& \textbackslash{}more\_\#1]\textasciitilde{}\{x\}\textasciicircum{}2 \$5 "
            r"\textless{}a\textbar{}b\textgreater{} {*} & 1.0 \\",
        ),
        (TableFormat.markdown, r"\more\_#1&#93;&#126;{x}^2 &#36;5 &lt;a\|b&#62; \*"),
        (TableFormat.html, r"[50% &amp; \more_#1]~{x}^2 $5 &lt;a|b&gt; *"),
        (TableFormat.terminal, ODD),
        (TableFormat.csv, ODD),
    ],
)
def test_names_are_escaped_in_every_format(tmp_path, chosen, words):
    text = text_of(tmp_path, chosen, result("m", {"x_y/val": 1.0}, group=ODD))
    assert words.removeprefix("\\") in text
    assert ("x\\_y/val" if chosen in ("latex", "markdown") else "x_y/val") in text


def test_the_terminal_takes_no_name_for_colours(tmp_path):
    one = result("[red]x[/red]", {"d/val": 1.0}, group="[red]x[/red]")
    assert "[red]x[/red]" in text_of(tmp_path, TableFormat.terminal, one)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles(tmp_path):
    odd = result("m", {"x_y/val": 1.0, "z/val": 2.0, "town/val": 3.0}, group=ODD)
    made = text_of(tmp_path / "a", TableFormat.latex, *ALL, odd, cost=True, paper="all")
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
        f"{made}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("options", [{}, {"cost": True}, {"classes": "synthia16"}])
def test_html_headings_cover_the_columns(tmp_path, options):
    page = Rendered(text_of(tmp_path, TableFormat.html, *ALL, **options))
    assert page.open == []
    covered = [0] * len(page.rows[-1])
    levels = len(page.rows) - 5
    for number, row in enumerate(page.rows[:levels]):
        column = 0
        for _, columns, rows in row:
            while covered[column] > number:
                column += 1
            for _ in range(columns):
                covered[column] = number + rows
                column += 1
    assert covered == [levels] * len(covered)


@pytest.mark.parametrize("chosen", list(TableFormat))
def test_several_tables_are_all_there(tmp_path, chosen):
    native = result("n", {"rain/val": 12.5}, **NATIVE)
    text = text_of(tmp_path, chosen, *BASE, native, paper="all")
    assert all(words in text for words in ("native (native size)", "12.5", "49.96", "39.62"))
    assert text.endswith("\n")
    # A network with a row of the paper shows that one alone.
    text = text_of(tmp_path / "one", chosen, result("m", {"bdd100k/val": 12.5}, paper=PAPER))
    assert "48.01" in text and "49.96" not in text


def test_costs_have_a_dash_where_memory_was_not_measured():
    cost = Cost(**COST, image_size=(64, 128), device="cpu")
    content = cost_layout({"one": cost, "gpu": cost.model_copy(update={"peak_mib": 901.4})})
    assert content.caption == "Cost of a 128x64 image (cpu)"
    assert texts(content) == [
        ["model", "parameters (M)", "GFLOPs", "images/s", "MiB"],
        ["one", "84.6", "110.2", "4.2", "\u2013"],
        ["gpu", "84.6", "110.2", "4.2", "901"],
    ]


@pytest.mark.parametrize("section", [None, "first"])
def test_a_text_is_rewritten_only_when_asked_and_never_without_failing(
    tmp_path, monkeypatch, section
):
    path = tmp_path / "expected.md"
    kept = "" if section is None else "\n# second\n\nanother\n"
    head = "" if section is None else "# first\n\n"
    path.write_text(f"{head}old\n{kept}")
    monkeypatch.delenv("RENEW", raising=False)
    check_text("old\n", path, section)
    with pytest.raises(AssertionError):
        check_text("new\n", path, section)
    assert path.read_text() == f"{head}old\n{kept}"
    monkeypatch.setenv("RENEW", "1")
    check_text("old\n", path, section)
    with pytest.raises(pytest.fail.Exception, match=r"expected\.md was rewritten"):
        check_text("new\n", path, section)
    assert path.read_text() == f"{head}new\n{kept}"
    check_text("new\n", path, section)
