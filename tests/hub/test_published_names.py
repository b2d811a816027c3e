"""Names of strangers in what is published: no markup in the card, no code, no token, no path."""

import json
import shutil
from dataclasses import replace

import markdown as renderer
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors import safe_open
from transformers import AutoConfig

from revt_hf.core.outputs import write_json, write_text
from revt_hf.data.domains import get_domain, open_domain
from revt_hf.data_tools.export import card_text as data_card
from revt_hf.evaluation.result import Provenance, write_results
from revt_hf.hub.cards import card_text, check_card
from revt_hf.hub.commit import PushOptions, last_part, without_local_paths
from revt_hf.hub.facts import model_facts
from revt_hf.hub.push import push
from revt_hf.merging.average import merge
from tests.helpers.hub_repository import files_of
from tests.helpers.pushed import LICENSE, changed, results_of
from tests.helpers.rendered import Rendered

NAMES = [
    "`<img src=x onerror=alert(1)>`",
    "a|b](javascript:alert(1)) [c](http://evil.example)",
    "--- \n---\nlicense: mit\n```\n</details><script>alert(1)</script>",
    "<!-- --> {{ x }} *a* _b_ ~~c~~ &lt;b&gt;",
]
ELEMENTS = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code"}
ELEMENTS |= {"a", "pre", "details", "summary", "strong", "em", "!--"}
MODULES = {"auto_map": {"AutoConfig": "evil.Evil"}, "trust_remote_code": True}


@pytest.fixture(scope="module")
def plain(models):
    """Elements of a card without odd names."""
    options = PushOptions(license="mit")
    facts = model_facts(models.revt, "me/roads", options, results_of(models))
    return _elements(card_text(facts))


def _elements(card):
    """The elements and links of a card's text as renderers of two families show it."""
    card = card.split("\n---\n", 1)[1]
    return [
        (found.tags, len(found.cells), html.count("href="), html.count("<h"), html.count("<!--"))
        for html in (
            MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(card),
            renderer.markdown(card, extensions=["tables", "fenced_code"]),
            renderer.markdown(card),
        )
        for found in [Rendered(html)]
    ]


def _odd_card(models, folder, name):
    """The card of a merge in which everything that can have a name has this one."""
    record = json.loads((models.revt / "merge.json").read_text())
    for member in record["members"]:
        member["path"] = f"/somewhere/{name.replace('/', ' ')}"
    record["selection"] = record["rules"][0]["select"] = name
    record["rules"][0]["method"] = name
    for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(models.revt / file, folder / file)
    write_json(folder / "merge.json", record)
    row = {"domain": "folder", "config": None, "split": name}
    row |= {"label": f"{name}/val", "label_encoding": name}
    measured = changed(results_of(models)[0], row, model=str(folder))
    results = [measured, *results_of(models)]
    facts = model_facts(folder, "me/roads", PushOptions(license=name), results)
    return card_text(facts), row


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.text("`<>[]()|\\!*_~#&:/-=\"' \n\tab1.{}", min_size=1, max_size=40).map("x{}".format))
@example(NAMES[0])
@example(NAMES[1])
@example(NAMES[2])
@example(NAMES[3])
def test_no_name_at_all_becomes_markup(models, tmp_path_factory, plain, name):
    folder = tmp_path_factory.mktemp("any")
    card, row = _odd_card(models, folder, name)
    check_card(card)
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert front["license"] in ("other", "mit")
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == row["label"]
    assert "<img" not in card and "<script" not in card and "](javascript" not in card
    for (tags, cells, links, heads, comments), wanted in zip(_elements(card), plain, strict=True):
        assert tags <= ELEMENTS | wanted[0]
        # One domain instead of two, and the members are the same.
        assert cells <= wanted[1]
        assert (links, heads, comments) <= (wanted[2], wanted[3], wanted[4])


@pytest.mark.parametrize("name", ["`<img src=x onerror=alert(1)>`", "a\nb | c", "[x](y) ]( &"])
def test_a_folder_of_that_name_is_pushed_as_text(models, tmp_path, name):
    member = shutil.copytree(models.base, tmp_path / name)
    merged = merge([member, models.pixmix], tmp_path / f"{name} revt")
    dry = tmp_path / "dry"
    push(merged, "me/revt", replace(LICENSE, dry_run=dry, with_members=(member,)))
    card = (dry / "README.md").read_text()
    assert "<img" not in card and "](" not in card.replace("](https://arxiv.org", "")
    body = card.split("\n---\n", 1)[1]
    found = Rendered(MarkdownIt("gfm-like", {"linkify": False}).render(body))
    assert found.tags <= ELEMENTS
    assert " ".join(name.split()) in found.cells


def test_a_data_card_holds_no_markup():
    opened = open_domain("streets", "val", None, None, {"val_images": 2})
    odd = NAMES[0]
    odd_split = replace(opened, left_out={NAMES[2]: NAMES[1]})
    domain = get_domain("folder")
    made = [
        data_card(domain, None, {"a": text}, {"val": split}, None, license, None)
        for text, split, license in (
            ("b", replace(opened, left_out={"e": "f"}), "mit"),
            (odd, odd_split, odd),
        )
    ]
    for (tags, cells, *counts), wanted in zip(*map(_elements, made[::-1]), strict=True):
        assert (tags, cells, *counts) == wanted
    front = yaml.safe_load(made[1].split("\n---\n")[0].removeprefix("---\n"))
    assert front["license"] == "other"
    assert "<img" not in made[1]


def test_code_of_strangers_is_neither_run_nor_passed_on(models, tmp_path):
    folder = shutil.copytree(models.base, tmp_path / "model")
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    for name in ("config.json", "preprocessor_config.json"):
        values = json.loads((folder / name).read_text())
        write_json(folder / name, {**values, **MODULES, "more": [{**MODULES, "kept": 1}]})
    push(folder, "me/base", replace(LICENSE, dry_run=tmp_path / "dry"))
    sent = files_of(tmp_path / "dry")
    assert set(sent) == {
        *(".revt_hf.json", "README.md", "recipe.yaml"),
        *("config.json", "model.safetensors", "preprocessor_config.json"),
    }
    content = b"".join(sent.values())
    assert not any(word in content for word in (b"evil", b"auto_map", b"trust_remote_code"))
    assert AutoConfig.from_pretrained(tmp_path / "dry").model_type == "segformer"
    assert not ran.exists()


@pytest.mark.parametrize(
    ("told", "published"),
    [
        ("/home/me/x", "x"),
        (" /home/me/x", "x"),
        ("file:///home/me/x", "x"),
        ("file:/home/me/x/", "x"),
        ("~me/x", "x"),
        ("~me", "folder"),
        ("C:\\Users\\me\\x", "x"),
        ("\\\\server\\me\\x", "x"),
        ("../me/x", "x"),
        ("--data=/home/me/x y", "--data=x y"),
        ("see '/home/me/x', then", "see 'x', then"),
        ("(C:\\me\\x)", "(x)"),
        ("https://host.example/me/x", "https://host.example/me/x"),
        ("https://me:secret@host.example/x", "https://host.example/x"),
        ("km/h and a/b", "km/h and a/b"),
        ("a / b", "a / b"),
        ("hf_secretsecretsecret", ""),
        ("/home/hf_secretsecretsecret/x", "x"),
        ("/home/hf_secretsecretsecret", "home"),
        ("token=hf_secretsecretsecret.", "token=."),
        (r"segformer\.encoder\.block\.[0-9]/x", r"segformer\.encoder\.block\.[0-9]/x"),
        ("a\udcffb", "a?b"),
    ],
)
def test_paths_and_tokens_of_any_kind_are_taken_out(told, published):
    assert without_local_paths(told) == published
    assert without_local_paths({"a": [{told: told}]}) == {"a": [{published: published}]}


def test_what_is_published_tells_no_path_and_no_token(models, tmp_path):
    folder = shutil.copytree(models.revt, tmp_path / "model")
    token, home = "hf_secretsecretsecret", "/home/somebody"
    record = json.loads((folder / "merge.json").read_text())
    record["notes"] = {f"{home}/a": f"--set a={home}/b", "c": f"file://{home}/c {token}"}
    write_json(folder / "merge.json", record)
    values = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**values, "_name_or_path": f"{home}/x", "note": token})
    told = Provenance(
        recipe={"command": f"revt evaluate {home}/m", "token": token}, device=f"{home}/gpu"
    )
    own = changed(results_of(models)[0], {"data_dir": f"{home}/data"}, model=str(folder))
    write_results(tmp_path / "results.json", [changed(own, provenance=told)])
    write_text(folder / "hidden.txt", token)
    push(folder, "me/revt", replace(LICENSE, dry_run=tmp_path / "dry"), tmp_path / "results.json")
    for name, content in files_of(tmp_path / "dry").items():
        assert b"somebody" not in content and b"secretsecret" not in content, name
    with safe_open(tmp_path / "dry" / "model.safetensors", framework="pt") as file:
        assert "somebody" not in str(file.metadata())


def test_places_are_reduced_by_their_keys_unless_they_are_hub_ids():
    files = ["/a/b.txt", "lists/b.txt", "C:\\data\\c", "~/d", "../e"]
    value = {"data_dir": "data/gta5/", "options": {"files": files}, "init": "me/start@v2"}
    rest = {"prepared": None, "steps": 3}
    told = {"data_dir": "gta5", "options": {"files": ["b.txt", "lists/b.txt", "c", "d", "e"]}}
    found = without_local_paths({**value, **rest, "path": "."}, ["me/start"])
    assert found == {**told, **rest, "init": "me/start@v2", "path": "folder"}
    assert without_local_paths(value)["init"] == "start"
    assert last_part("/") == "folder"
