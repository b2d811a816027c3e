"""Merging Hub models of which only parts are read, over HTTP, with all that can go wrong."""

import json
import logging
import os
import shutil
import time
import traceback
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from revt_hf.checkpoints import download, hub_parts, hub_requests
from revt_hf.checkpoints.headers import read_header
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.merging.average import MergeOptions, merge
from revt_hf.merging.member_states import member_states
from revt_hf.merging.record import read_merge_record
from revt_hf.merging.registry import MergeSpec, Rule
from tests.helpers.command_line import measured_command, refused, revt
from tests.helpers.hub_repository import Failure, Repository, files_of
from tests.helpers.hub_server import TOKEN
from tests.helpers.segformers import random_state, saved_state, tensors_of
from tests.helpers.small_hub import LIMIT, small_hub

IDS = ["org/a", "org/b", "org/c"]
WEIGHTS = "model.safetensors"
RECORD = "merge.json"
SIZES = {"depths": (1,) * 4, "hidden_sizes": (32, 64, 160, 256), "decoder_hidden_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three models of 7 MiB, whose headers are less than 1 % of that."""
    root = tmp_path_factory.mktemp("members")
    return [
        saved_state(root / name, random_state(seed, sizes=SIZES), SIZES)
        for seed, name in enumerate("abc")
    ]


@pytest.fixture
def hub(monkeypatch, tmp_path, folders):
    with small_hub(monkeypatch, tmp_path / "cache", ranges=True) as hub:
        for name, folder in zip(IDS, folders, strict=True):
            hub.repositories["models", name] = Repository(files_of(folder))
        yield hub


def _same_weights(merged, other):
    """Everything but provenance, which weights hold in their header."""
    one, two = ([(i.name, i.dtype, i.shape) for i in read_header(f / WEIGHTS)] for f in (merged, other))
    assert one == two
    names = [(f / WEIGHTS).read_bytes()[read_header(f / WEIGHTS)[0].offset :] for f in (merged, other)]
    assert names[0] == names[1]
    assert (merged / "config.json").read_bytes() == (other / "config.json").read_bytes()


def _asked(hub, name):
    """Ranges of a file, and their bytes together."""
    parts = [(begin, end) for file, begin, end in hub.sent if file == name]
    return parts, sum(end - begin for begin, end in parts)


def _needed(folder, head):
    """The ranges of the tensors that a ReVT needs of a member, and their bytes together."""
    infos = read_header(folder / WEIGHTS)
    used = [i for i in infos if head or i.name.startswith("segformer.")]
    return [(i.offset, i.offset + i.nbytes) for i in used], sum(i.nbytes for i in used)


@pytest.mark.parametrize("head", [1, 3])
def test_only_what_is_needed_is_moved_and_the_result_is_the_same(hub, folders, tmp_path, head):
    spec = MergeSpec(tuple(IDS), head=head)
    merged = merge(spec, tmp_path / "merged")
    local = merge(replace(spec, members=tuple(map(str, folders))), tmp_path / "local")
    _same_weights(merged, local)
    moved = needed = 0
    for number, (name, folder) in enumerate(zip(IDS, folders, strict=True), 1):
        parts, bytes_moved = _asked(hub, f"{name}/{WEIGHTS}")
        ranges, bytes_needed = _needed(folder, number == head)
        moved, needed = moved + bytes_moved, needed + bytes_needed
        # Nothing twice, and no byte of another member's head.
        parts.sort()
        assert all(one[1] <= two[0] for one, two in zip(parts, parts[1:], strict=False))
        header = ranges[0][0] if number == head else read_header(folder / WEIGHTS)[0].offset
        for begin, end in parts:
            inside = sum(max(0, min(end, e) - max(begin, b)) for b, e in ranges)
            assert end <= header or inside == end - begin
        assert len(parts) <= 4
    assert needed < moved <= 1.02 * needed
    assert hub.shown == []
    assert not list((tmp_path / "cache").rglob(f"snapshots/*/{WEIGHTS}"))
