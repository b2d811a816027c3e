"""Foreign names in Markdown, YAML, JSON and bash stay what they are: text."""

import json
import subprocess

import markdown as renderer
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from revt_hf.results.markdown import code, json_text, shell_line, text, yaml_text
from tests.helpers.rendered import Rendered

HOSTILE = [
    "`<img src=x onerror=alert(1)>`",
    "<script>alert(1)</script>",
    "\\<img src=x>",
    "a\n---\nb",
    "a\n\n# b",
    "```\n<b>",
    "a|b",
    "a\\|b",
    "``a|b`",
    "[x](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "[x]: http://evil.example",
    "<http://evil.example>",
    "https://evil.example www.evil.example",
    "&lt;b&gt; &#60;b>",
    "<!-- results:end -->",
    "--> <b>",
    "***a*** __b__ ~~c~~",
    "1. a",
    "- a",
    "> a",
    "# a",
    "{{ x }} {% y %}",
    "a: b # c",
    "\x1b[31mred\x07",
    "\udcff",
    "\u202eabc",
    "'\" `",
    "",
]
names = st.one_of(
    st.text(max_size=30),
    st.text("`<>[]()|\\!*_~#&:/-= \n\tab1.", max_size=30),
    st.lists(st.sampled_from(HOSTILE), max_size=3).map("".join),
)


def _check(name):
    table = f"| a | b |\n|---|---|\n| {text(name)} | {code(name)} |\n"
    page = f"{text(name, begins_line=True)}\n\n{table}\n- {code(name)}: {text(name)}\n"
    shown = " ".join(name.split())
    for html in (
        MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(page),
        renderer.markdown(page, extensions=["tables"]),
    ):
        found = Rendered(html)
        assert found.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code"}
        assert len(found.cells) == 4
        if shown.isprintable():
            assert found.cells[2:] == [shown, shown]
    assert "<img" not in page and "](" not in page


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name):
    _check(name)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(names)
def test_any_name_is_text(name):
    _check(name)


def test_plain_names_look_plain():
    assert code("runs/a-1") == "`runs/a-1`"
    assert text("GTA5 (val), 3.5 %") == "GTA5 (val), 3.5 %"
    assert yaml_text({"a": ["x y", "1"]}) == "a:\n- x y\n- '1'\n"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(names, st.one_of(names, st.lists(names, max_size=3)), max_size=3))
def test_yaml_and_json_read_back_and_hold_no_markup(values):
    for written, read in (
        (yaml_text(values), yaml.safe_load),
        (json_text(json.dumps(values, ensure_ascii=False, indent=2)), json.loads),
    ):
        assert read(written) == values
        assert not any(mark in written for mark in ("<", "`", "]("))
        assert "---" not in written.splitlines()


@pytest.mark.parametrize("word", [name for name in HOSTILE if name])
def test_bash_reads_the_word(word):
    line = shell_line(["printf", "%s", word])
    assert not any(mark in line for mark in ("\n", "<", "`", "]("))
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout == word.encode("utf-8", "surrogateescape")
