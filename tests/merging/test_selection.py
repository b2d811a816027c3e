"""Selections: presets, pyramids and the original's regular expressions on real tensor names."""

import re
import time

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.checkpoints.names import disk_name, memory_names, original_name
from revt_hf.core.errors import UserError
from revt_hf.merging.selection import PRESETS, select

DEPTHS = {"b0": (2, 2, 2, 2), "b2": (3, 4, 6, 3), "b5": (3, 6, 40, 3)}
NARROW = {
    "hidden_sizes": [8] * 4,
    "num_attention_heads": [1] * 4,
    "decoder_hidden_size": 8,
    "num_labels": 3,
}


def _names(depths):
    with torch.device("meta"):
        model = SegformerForSemanticSegmentation(SegformerConfig(depths=list(depths), **NARROW))
    return sorted(map(disk_name, model.state_dict()))


NAMES = {size: _names(depths) for size, depths in DEPTHS.items()}
B0, B2, B5 = NAMES.values()


def _original_regex(regex, names=B5):
    """What the original's tool would merge of a network with these tensors."""
    return [name for name in names if re.match(regex, original_name(name))]


# What the original's scripts pass as --weights-filter (facts: datasets.md, section 11).
LAYER_TYPES = {
    "attention": "backbone.*attn.*",
    "mlp": "backbone.*block.*mlp.*",
    "patch_embed": "backbone.patch_embed.*",
    "norm": ".*norm.*",
    "backbone": "backbone.*",
    "head": "decode_head.*",
    "all": ".*",
    "no_norm": r"backbone\.(?!.*norm).*",
    **{f"stage{n}": rf"backbone\.(patch_embed|block|norm){n}\..*" for n in range(1, 5)},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_the_originals_experiments(preset):
    regex = LAYER_TYPES[preset]
    assert select(preset, B5) == _original_regex(regex) == select(f"original:{regex}", B5)
    if preset != "norm":
        assert select(regex, B5) == select(preset, B5)


@pytest.mark.parametrize(
    ("regex", "names"),
    [
        (r"decode_head.*", B0[:16]),
        (r"decode_head\.linear_c2\.proj\.bias", ["decode_head.linear_c.1.proj.bias"]),
        (r"decode_head\.linear_fuse\.conv\.weight", ["decode_head.linear_fuse.weight"]),
        (r"decode_head\.linear_fuse\.bn\.weight", ["decode_head.batch_norm.weight"]),
        (r"decode_head\.linear_pred\.weight", ["decode_head.classifier.weight"]),
        (r"segformer\.encoder\.layer_norm\.1\.", _original_regex(r"backbone\.norm2\.", B0)),
        (r"backbone\.norm2\.", _original_regex(r"backbone\.norm2\.", B0)),
        (
            r"backbone\.block1\.0\.attn\.kv\.weight",
            [f"segformer.encoder.block.0.0.attention.self.{n}.weight" for n in ("key", "value")],
        ),
        (
            r"decode_head\.(linear_pred|batch_norm)",
            [name for name in B0 if ".batch_norm." in name or ".classifier." in name],
        ),
        ("re:backbon", B0[16:]),
        ("re:.*norm", [name for name in B0 if "norm" in name]),
        ("original:.*norm.*", [n for n in B0 if "norm" in n and "batch_norm" not in n]),
        ("(?!.*attn).*", B0),
        ("original:(?!.*attn).*", [name for name in B0 if ".attention." not in name]),
    ],
)
def test_names_of_files_and_of_the_original_both_count(regex, names):
    assert select(regex, B0) == names


def _pyramid(depths):
    """The original's cumulative regular expressions, left to right."""
    steps = []
    for stage, depth in enumerate(depths, 1):
        steps.append(rf"(backbone.*patch_embed{stage}\..*)")
        steps += [rf"(backbone\.block{stage}\.{block}\..*)" for block in range(depth)]
        steps.append(rf"(backbone\.norm{stage}\..*)")
    return ["|".join(steps[: count + 1]) for count in range(len(steps))]


@pytest.mark.parametrize(("size", "steps", "stride"), [("b2", 24, 1), ("b5", 60, 6)])
def test_blocks_are_the_originals_pyramid(size, steps, stride):
    names = NAMES[size]
    regexes = _pyramid(DEPTHS[size])
    assert len(regexes) == steps
    for count in range(1, steps + 1, stride):
        assert select(f"blocks:{count}", names) == select(regexes[count - 1], names), count
    assert select(f"blocks:{steps}", names) == select("backbone", names)
    assert select("blocks:" + "0" * 5000 + "7", names) == select("blocks:7", names)


TYPOS = {
    "backbone-nrom": "backbone-norm",
    "no-norm": "no_norm",
    "patch-embed": "patch_embed",
    "NO_NORM": "no_norm",
    "stge1+stage2": "stage1+stage2",
    "atention": "attention",
    "blocks3": "blocks:3",
    "block:2-norm": "blocks:2-norm",
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("re:", "empty"),
        ("original:", "empty"),
        ("backbone(", "'backbone\\(' is no regex: missing \\), .* at position 8"),
        ("a{99999999999}", "no regex"),
        ("(" * 5000, "no regex"),
        ("blocks:3+foo", "'foo' is no preset"),
        ("re:x+blocks:3", "selects no tensor"),
        ("norm-backbone", "selects no tensor"),
        ("zzz", "no preset .*blocks:K.* and no regex for names like decode_head"),
        ("block1.*", "selects no tensor"),
        ("re:norm", "selects no tensor"),
        (r"decode_head\.conv_seg\.weight", "no tensor"),
        ("a" * 60_000, "longer than 50000"),
        ("(?i:" * 400 + "x" + ")" * 400, "no"),
        ("x" * 40_000, "selects no tensor"),
        *(
            (f"blocks:{count}", "whole number from 1 to 16")
            for count in ("0", "17", "", "x", "-1", "3.5", "9" * 5000, "٣", "1..999999999")
        ),
        *((text, re.escape(f"did you mean '{meant}'?")) for text, meant in TYPOS.items()),
    ],
)
def test_what_selects_nothing_says_so(text, words):
    with pytest.raises(UserError, match=words) as caught:
        select(text, B0)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert select(TYPOS.get(text, "all"), B0)


def test_a_model_without_these_tensors():
    assert select("all", ["weight"]) == ["weight"]
    assert select("wei.*", ["weight"]) == ["weight"]
    odd = "segformer.encoder.block.0.odd.weight"
    assert select("blocks:1", [odd]) == [odd]
    for text in ("backbone", "blocks:1", "original:.*"):
        with pytest.raises(UserError):
            select(text, ["weight"])
        with pytest.raises(UserError):
            select(text, [])


def test_original_names_lead_back():
    for name in (*B0, *B2, *B5):
        original = original_name(name)
        assert name in map(disk_name, memory_names(original)), name
        assert len(memory_names(original)) == 1 + (".key." in name or ".value." in name)
    for foreign in (
        "weight",
        "backbone.norm1.weight",
        "segformer.encoder.block.0.0.attention.q_proj.weight",
        "segformer.encoder.block.0.weight",
        "segformer.stages.0.layer_norm.weight",
        "decode_head.conv_seg.weight",
    ):
        assert original_name(foreign) == foreign


TERMS = st.sampled_from([*PRESETS, "blocks:1", "blocks:5", "blocks:16"])


@given(TERMS, st.lists(st.tuples(st.sampled_from("+-"), TERMS), max_size=4))
@example("backbone", [("-", "norm")])
@example("stage1", [("+", "stage2"), ("+", "stage3"), ("+", "stage4")])
@example("backbone", [("-", "stage1"), ("+", "stage1")])
@settings(max_examples=40, deadline=None, derandomize=True)
def test_combinations_are_set_arithmetic(first, others):
    wanted = set(select(first, B0))
    for sign, term in others:
        wanted = wanted | set(select(term, B0)) if sign == "+" else wanted - set(select(term, B0))
    text = first + "".join(f" {sign} {term}" for sign, term in others)
    if wanted:
        assert select(text, B0) == [name for name in B0 if name in wanted]
    else:
        with pytest.raises(UserError, match="selects no tensor"):
            select(text, B0)


def test_a_regex_that_backtracks_is_stopped():
    start = time.monotonic()
    with pytest.raises(UserError, match="takes more than 2 seconds") as caught:
        select(r"re:(?:.*?.*?){20}(.)\1{3}", B5)
    assert time.monotonic() - start < 30
    assert "\n" not in str(caught.value)
