"""``revt table``: what it reads, what it writes, and the tables in Markdown files."""

import json
import re

import pytest

from revt_hf.cli.results import renewed_document
from revt_hf.evaluation.result import FORMAT
from revt_hf.results.markdown import sections_of
from tests.helpers import command_line
from tests.helpers.golden import ROOT
from tests.helpers.made_up_results import BASE, PROTOCOL, REVT, evaluated, result, score, written


def revt(capsys, *arguments):
    return command_line.revt(capsys, "table", *arguments)


def refused(capsys, *arguments):
    error = command_line.refused(capsys, "table", *arguments)
    assert len(error.splitlines()) == 1
    return error


def test_a_folder_gives_its_results_and_nothing_else(capsys, tmp_path):
    folder = tmp_path / "results"
    written(folder / "deep", *BASE)
    written(folder / ".half", {**BASE[0], "model": "half"})
    for name, text in (("config", '{"model": "x"}'), ("list", "[1, 2]"), ("broken", "{")):
        (folder / f"{name}.json").write_text(text)
    code, out, error = revt(capsys, folder, "--format", "markdown")
    assert code == 0, error
    rows = [line for line in out.splitlines() if line.startswith("| ")][2:]
    assert rows == ["| base | 2 | 72.0 ± 1.0 | 40.0 ± 1.0 | 34.0 ± 1.0 | 37.0 ± 0.0 |"]
    # A file that is named twice counts once.
    again = folder / "deep" / "00.json"
    assert revt(capsys, folder, again, "--format", "markdown")[1] == out


def test_weights_that_changed_between_two_evaluations_are_no_row(capsys, tmp_path):
    results = [
        evaluated("runs/a", [score(label, 50.0)], network_sha256=[what])
        for label, what in [("town/val", "12"), ("rain/val", "12"), ("snow/val", "34")]
    ]
    paths = written(tmp_path, *results)
    assert revt(capsys, *paths[:2])[0] == 0
    error = refused(capsys, *paths)
    assert f"runs/a in {paths[0]} and in {paths[2]} are two networks of one name" in error


def test_results_of_evaluate_are_rows_by_their_models(capsys, tmp_path):
    results = [
        evaluated(model, [score("town/val", source), score("rain/val", target)])
        for model, source, target in (("runs/a", 70.0, 30.0), ("runs/b", 60.0, 31.0))
    ]
    (path,) = written(tmp_path, results)
    code, out, error = revt(capsys, path, "--format", "markdown", "--json", tmp_path / "small")
    assert code == 0, error
    assert "| runs/a | 70.0 | 30.0 |" in out
    assert "| runs/b | 60.0 | **31.0** |" in out
    assert "protocol paper (1024x512)" in out
    assert revt(capsys, tmp_path / "small", "--format", "markdown")[1] == out
    # Beside results of an experiment by the same protocol they are in one table.
    (more,) = written(tmp_path / "more", BASE[0])
    assert revt(capsys, path, more, "--format", "markdown")[1].count("protocol paper") == 1


def test_output_and_json(capsys, tmp_path):
    paths = written(tmp_path, *BASE, *REVT)
    arguments = [*paths, "--format", "latex", "--output", tmp_path / "t.tex"]
    code, out, _ = revt(capsys, *arguments, "--json", tmp_path / "small.json")
    assert (code, out) == (0, f"written: {tmp_path / 't.tex'}\n")
    assert "exists already" in refused(capsys, *arguments)
    assert revt(capsys, *arguments, "--quiet", "--overwrite")[1] == ""
    assert "\\toprule" in (tmp_path / "t.tex").read_text()
    small = (tmp_path / "small.json").read_text()
    assert [value["model"] for value in json.loads(small)["results"]] == [
        *("base/0", "base/1", "revt/0", "revt/1", "revt/2")
    ]
    # One line each, so that a diff shows which result is another one.
    assert len(small.splitlines()) == 5 + 2
    again = revt(capsys, tmp_path / "small.json", "--format", "latex")[1]
    assert again == (tmp_path / "t.tex").read_text()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"model": "x"}, "00.json is not a result file of revt evaluate --json or revt run"),
        ([], "00.json is not a result file"),
        ({"format": "revt_hf.results/2", "results": [BASE[0]]}, "00.json.format: "),
        ({"format": FORMAT, "results": []}, "00.json.results: "),
        ({**BASE[0], "kind": "mix"}, "00.json.results.0.kind: "),
        ({**BASE[0], "scores": []}, "00.json.results.0.scores: "),
        ({**BASE[0], "scores": [score("a/val", 101.0)]}, "scores.0.mIoU: "),
        ({**BASE[0], "scores": [score("a/val", float("nan"))]}, "scores.0.mIoU: "),
        ({**BASE[0], "scores": [score("a/val", 1.0, IoU={"road": -1})]}, "scores.0.IoU.road: "),
        ({**BASE[0], "scores": [score("a/val", 1.0, images=0)]}, "scores.0.images: "),
        ({**BASE[0], "scores": [score("a/val", 1.0, split=3)]}, "scores.0.split: "),
        ({**BASE[0], "protocol": {**PROTOCOL, "max_size": 3}}, "protocol.max_size"),
        ({k: v for k, v in BASE[0].items() if k != "model"}, "model: required, but not given"),
        ({**BASE[0], "modle": "x"}, "unknown key (did you mean 'model'?)"),
    ],
)
def test_wrong_files_are_one_sentence(capsys, tmp_path, value, words):
    whole = not isinstance(value, dict) or "scores" not in value
    path = tmp_path / "00.json"
    path.write_text(json.dumps(value if whole else {"format": FORMAT, "results": [value]}))
    assert words in refused(capsys, path)


def test_mistakes_of_the_command_are_one_sentence(capsys, tmp_path):
    paths = written(tmp_path / "r", *BASE)
    broken, empty = tmp_path / "broken.json", tmp_path / "empty"
    broken.write_text("{")
    empty.mkdir()
    for arguments, words in (
        ([], "name RESULTS"),
        ([tmp_path / "nowhere.json"], "cannot read"),
        ([broken], "broken.json is not a result file"),
        ([empty], "holds no result file of revt evaluate --json"),
        ([*paths, "--format", "word"], "--format 'word': use one of terminal, markdown"),
        ([*paths, "--paper", "kitti"], "--paper 'kitti'"),
        ([*paths, "--classes", "all"], "unknown classes 'all'"),
        ([*paths, "--protocol", "slide"], "'slide', only by paper"),
        ([*paths, "--update", broken, "--format", "csv"], "--update and --check go without"),
        (["--check", broken, "--cost"], "leave all options to the comment"),
        (["--check", tmp_path / "no.md"], "cannot read"),
        (["--update", broken], "has no lines <!-- results:begin"),
    ):
        assert words in refused(capsys, *arguments)
    assert broken.read_text() == "{"


@pytest.fixture
def document(tmp_path):
    """A Markdown file whose table is made of two files beside it."""
    written(tmp_path / "data", *BASE)
    path = tmp_path / "page.md"
    path.write_text(
        "# Page\n\n```\n<!-- results:begin revt table nothing -->\n```\n\n"
        "<!-- results:begin revt table data/00.json data/01.json --paper gta5 --per-model -->\n"
        "old\n<!-- results:end -->\nafter\n"
    )
    return path


def test_update_makes_the_table_that_the_comment_names(capsys, document):
    code, _, error = revt(capsys, "--check", document)
    assert code == 1
    assert error == f"stale: {document}; revt table --update {document} renews it\n"
    assert "\nold\n" in document.read_text()
    assert revt(capsys, "--update", document)[0] == 0
    text = document.read_text()
    assert "| base/1 | 73.0 |" in text and "\nold\n" not in text
    # 41.73 is of the paper's GTA5, 39.71 of its SYNTHIA.
    assert "41.73" in text and "39.71" not in text
    assert text.startswith("# Page\n\n```\n<!-- results:begin revt table nothing -->\n```\n")
    assert text.endswith("\n<!-- results:end -->\nafter\n")
    assert revt(capsys, "--check", document)[:2] == (0, f"up to date: {document}\n")
    # Other text and other results are noticed.
    for path in (document, document.parent / "data" / "01.json"):
        before = path.read_text()
        path.write_text(before.replace("73.0", "74.0"))
        assert revt(capsys, "--check", document)[0] == 1
        path.write_text(before)


def test_results_on_the_command_line_replace_those_in_the_comment(capsys, document, monkeypatch):
    monkeypatch.chdir(document.parent / "data")
    options = ("--cost", "--protocol", "paper")
    assert revt(capsys, "00.json", *options, "--update", document)[0] == 0
    line = "<!-- results:begin revt table data/00.json --protocol paper --cost -->"
    assert line in document.read_text().splitlines()
    assert "GFLOPs" in document.read_text()
    monkeypatch.chdir(document.parent)
    assert revt(capsys, "--check", document)[0] == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("revt table x.json -->\n<!-- results:begin revt table y.json", "without results:end"),
        ("", "line 3: results:begin is to be followed by: revt table"),
        ("revt report x", "is to be followed by: revt table"),
        ("revt table x.json --output y", "line 3: results:begin: No such"),
        ("revt table x.json --paper", "requires an argument"),
        ("revt table x.json", "cannot read"),
    ],
)
def test_a_comment_that_cannot_be_followed_is_one_sentence(capsys, tmp_path, line, words):
    path = tmp_path / "page.md"
    text = f"# Page\n\n<!-- results:begin {line} -->\n<!-- results:end -->\n"
    path.write_text(text)
    assert words in refused(capsys, "--update", path)
    assert path.read_text() == text


def test_several_tables_in_one_file(capsys, tmp_path):
    written(tmp_path, result("a", {"rain/val": 11.0}), result("b", {"rain/val": 22.0}))
    page = tmp_path / "page.md"
    table = "<!-- results:begin revt table 0{}.json -->\n<!-- results:end -->\n"
    page.write_text(table.format(0) + table.format(1))
    assert "page.md has 2 tables" in refused(capsys, tmp_path / "00.json", "--update", page)
    assert revt(capsys, "--update", page)[0] == 0
    assert re.findall(r"\| ([ab]) \| (\d+)", page.read_text()) == [("a", "11"), ("b", "22")]
    assert revt(capsys, "--check", page)[0] == 0


def pages():
    """Every Markdown file of the repository that has tables."""
    found = [*ROOT.glob("*.md")]
    for folder in ("docs", "recipes", "model_cards"):
        found += (ROOT / folder).rglob("*.md")
    return [path for path in found if sections_of(path.read_text(encoding="utf-8"), path)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_in_documents_are_current(page):
    now, fresh = renewed_document(page)
    assert now == fresh, f"revt table --update {page.relative_to(ROOT)}"


def test_the_readme_has_a_table():
    assert ROOT / "README.md" in pages()


@pytest.mark.parametrize("name", ["--><img src=x>", "a\nb"])
def test_a_name_does_not_end_the_comment_that_names_it(capsys, tmp_path, name):
    written(tmp_path / name, *BASE)
    page = tmp_path / "page.md"
    page.write_text("<!-- results:begin revt table x -->\n<!-- results:end -->\n")
    error = refused(capsys, tmp_path / name, "--update", page)
    assert "cannot stand in a comment of Markdown: rename the results" in error
    assert page.read_text().count("\n") == 2
