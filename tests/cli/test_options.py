"""How values of shared options are read."""

import pytest

from revt_hf.cli.options import key_values, named_models, parse_max_size
from revt_hf.core.errors import UserError


def test_models_may_have_names(tmp_path):
    plain, odd = tmp_path / "plain", tmp_path / "lr=1"
    odd.mkdir()
    named = named_models([str(plain), f"ours={plain}", str(odd), "runs/lr=2", "me/hub@main"])
    assert named == {
        str(plain): str(plain),
        "ours": str(plain),
        str(odd): str(odd),
        "runs/lr=2": "runs/lr=2",
        "me/hub@main": "me/hub@main",
    }


def test_a_folder_with_an_equals_sign_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    assert named_models(["lr=1", "lr=2"]) == {"lr=1": "lr=1", "lr": "2"}


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["a", "a"], "the model a is listed twice"),
        (["x=a", "x=b"], "the model x is listed twice"),
        (["=a"], "=a: write a model as PATH or NAME=PATH"),
        (["x="], "x=: write a model as PATH or NAME=PATH"),
    ],
)
def test_names_are_unique_and_whole(models, words):
    with pytest.raises(UserError, match=words):
        named_models(models)


def test_sizes_and_values():
    assert parse_max_size("1024x512") == (1024, 512)
    assert parse_max_size("native") is None
    for text in ("0x5", "5", "1x2x3", "40000x2", "axb"):
        with pytest.raises(UserError, match=f"--max-size {text}: write WIDTHxHEIGHT"):
            parse_max_size(text)
    assert key_values(["size=[64, 128]", "a=b=c"]) == {"size": [64, 128], "a": "b=c"}
    for text in ("size", "x={"):
        with pytest.raises(UserError, match="--option"):
            key_values([text])
