"""The table of results in every format."""

import csv
import io
import shutil
import subprocess

import pytest

from revt_hf.evaluation.result import Cost
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.layout import cost_layout
from tests.helpers.made_up_results import ALL, BASE, COST, NATIVE, PAPER, result, tables, texts
from tests.helpers.rendered import Rendered

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


def text_of(folder, chosen, *results, **options):
    return formatted(tables(folder, *results, **options), chosen)


def test_markdown(tmp_path):
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


def test_terminal(tmp_path):
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


def test_csv_has_a_line_for_each_row_and_domain(tmp_path):
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


def test_csv_of_the_paper_alone(tmp_path):
    text = text_of(tmp_path, TableFormat.csv, *BASE, paper="synthia")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["paper"]]
    assert len(rows) == 9 * 2
    values = [rows[0][key] for key in ("label", "paper", "n", "mean", "values")]
    assert values == ["cityscapes/val", "39.71", "0", "", ""]


def test_latex(tmp_path):
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


def test_html(tmp_path):
    html = text_of(tmp_path, TableFormat.html, *ALL)
    page = Rendered(html)
    assert [text for text, *_ in page.rows[4]] == [
        *("ReVT {1,4,6}", "3", "70.0 ± 0.0", "49.96", "43.0 ± 2.2", "48.01"),
        *("32.0 ± 1.6", "37.5 ± 1.9"),
    ]
    assert page.strong == ["34.0 ± 1.0", "45.5", "34.0", "39.5"]
    assert '<td class="source">70.0 ± 0.0</td>' in html
    assert '<td class="target paper">49.96</td>' in html
    assert all(f"<p>{note}</p>" in html for note in NOTES)
    # It loads nothing.
    assert "http" not in html
    assert "<script" not in html


@pytest.mark.parametrize("chosen", list(TableFormat))
def test_several_tables_are_all_there(tmp_path, chosen):
    native = result("n", {"rain/val": 12.5}, **NATIVE)
    text = text_of(tmp_path, chosen, *BASE, native, paper="all")
    for words in ("native (native size)", "12.5", "49.96", "39.62"):
        assert words in text
    assert text.endswith("\n")
    # A network with a row of the paper shows that one alone.
    text = text_of(tmp_path / "one", chosen, result("m", {"bdd100k/val": 12.5}, paper=PAPER))
    assert "48.01" in text
    assert "49.96" not in text


def test_costs_have_a_dash_where_memory_was_not_measured():
    cost = Cost(**COST, image_size=(64, 128), device="cpu")
    content = cost_layout({"one": cost, "gpu": cost.model_copy(update={"peak_mib": 901.4})})
    assert content.caption == "Cost of a 128x64 image (cpu)"
    assert texts(content) == [
        ["model", "parameters (M)", "GFLOPs", "images/s", "MiB"],
        ["one", "84.6", "110.2", "4.2", DASH],
        ["gpu", "84.6", "110.2", "4.2", "901"],
    ]
