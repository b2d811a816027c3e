"""YAML from strangers: refused or read within a second, each extended file once."""

import time

import pytest

from revt_hf.config.yaml_files import apply_override, parse_yaml, read_with_parents
from revt_hf.core.errors import UserError


def _aliases(form):
    """Nine levels, each with nine aliases of the one before: nine to the power of nine values."""
    lines = [form.format(name="a", of=",".join("123456789"))]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(form.format(name=name, of=",".join([f"*{before}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_aliases("{name}: &{name} [{of}]"), "10000 values"),
        (_aliases("{name}: &{name} {{x: [{of}]}}"), "10000 values"),
        (_aliases("{name}: &{name} {{<<: [{of}]}}"), "10000 values"),
        ("[" * 3000, "nested deeper"),
        ("{a: " * 3000, "nested deeper"),
        ("- " * 3000, "nested deeper"),
        ("&a [*a]", "nested deeper"),
        ("{" + ",".join(f"k{n}: 1" for n in range(40_000)) + "}", "KiB"),
        ("{" + ",".join(f"k{n}: 1" for n in range(20_000)) + "}", "10000 values"),
        ("x" * 300_000, "KiB"),
        ("1" * 100_000, "digits"),
        ("1" + ":1" * 100_000, "digits"),
        ("a: 1\na: 2", "twice"),
        ("{<<: {a: 1}, <<: {a: 2}}", "twice"),
        ("{[1]: 2}", "a key is a word"),
        ("2001-99-99", "does not fit its type"),
        ("!!int x", "does not fit its type"),
        ("!!bool q", "does not fit its type"),
        ("!!float z", "does not fit its type"),
        ("!!timestamp 1", "does not fit its type"),
        ("!!set {a}", "tag"),
        ("!!binary aa", "tag"),
        ("!!python/object:os.system x", "tag"),
        ("a: \0", "special characters"),
        ("\ud800", "special characters"),
        ("a: 1\n---\nb: 1", "another document"),
        ("<<: 3", "merging"),
        ("*nowhere", "undefined alias"),
    ],
)
def test_what_is_refused(text, words):
    since = time.perf_counter()
    with pytest.raises(UserError, match=words) as caught:
        parse_yaml(text)
    # A second by itself; tests run beside others.
    assert time.perf_counter() - since < 5
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 2001-01-01", {"a": "2001-01-01"}),
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("[1, 1.5, true, null, x]", [1, 1.5, True, None, "x"]),
    ],
)
def test_what_is_read(text, value):
    assert parse_yaml(text) == value


def test_an_override_changes_no_alias():
    values = parse_yaml("a: &a {x: 1}\nb: *a")
    apply_override(values, "a.x=2")
    assert values == {"a": {"x": 2}, "b": {"x": 1}}


@pytest.mark.parametrize(
    "override",
    [
        *("a=2001-99-99", "a=" + "[" * 3000, "a=!!int x", ".".join("a" * 5000) + "=1", "a=\0"),
        *("a", "=3", "a..b=3", "x.y=3"),
    ],
)
def test_overrides_that_are_refused(override):
    with pytest.raises(UserError, match="--set") as caught:
        apply_override({"x": 1}, override)
    assert len(str(caught.value)) < 400


def test_each_extended_file_is_read_once(tmp_path):
    for number in range(20):
        parents = ", ".join([f"{number + 1}.yaml"] * 2)
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{parents}]\nk{number}: {number}\n")
    (tmp_path / "20.yaml").write_text("k20: 20")
    seen = []
    values = read_with_parents(tmp_path / "0.yaml", lambda own, _: seen.append(list(own)))
    assert values == {f"k{number}": number for number in range(21)}
    assert len(seen) == 21


def test_too_many_files_are_refused(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    with pytest.raises(UserError, match="more than 32 files"):
        read_with_parents(tmp_path / "0.yaml")
    (tmp_path / "wide.yaml").write_text(f"extends: [{', '.join(['x.yaml'] * 40)}]")
    with pytest.raises(UserError, match="at most 32 files"):
        read_with_parents(tmp_path / "wide.yaml")


@pytest.mark.parametrize("parent", ['"a\\0b"', "x" * 5000, ".", "/dev/zero", "loop.yaml"])
def test_parents_that_are_no_files(tmp_path, parent):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"extends: {parent}")
    with pytest.raises(UserError, match="cannot read the recipe"):
        read_with_parents(path)


@pytest.mark.parametrize("data", [b"a: \xff", b"\xff\xfea\0", b"\x80"])
def test_other_encodings_are_named(tmp_path, data):
    (tmp_path / "recipe.yaml").write_bytes(data)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        read_with_parents(tmp_path / "recipe.yaml")
