"""Rows of merging three SegFormer-B5: as a function, and as the whole command."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from benchmarks.runner import Pair, row
from revt_hf.checkpoints.architecture import tensor_shapes
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.tensors import CONFIG_FILE
from revt_hf.merging.average import MergeOptions, merge

_MEMBERS = 3
PIECE = 1 << 17  # as cat reads


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that lasts as long as the process."""
    return tempfile.TemporaryDirectory()


@cache
def b5_members() -> tuple[Path, ...]:
    """Folders with B5's tensors (about 340 MB), without transformers."""
    config = {
        "model_type": "segformer",
        "depths": [3, 6, 40, 3],
        "hidden_sizes": [64, 128, 320, 512],
        "decoder_hidden_size": 768,
        "num_labels": 19,
    }
    folders = []
    for seed in range(_MEMBERS):
        rng = np.random.default_rng(seed)
        folder = Path(_folder().name) / f"member-{seed}"
        folder.mkdir()
        (folder / CONFIG_FILE).write_text(json.dumps(config))
        shapes = tensor_shapes(read_description(folder).segformer, 19)
        tensors = {n: rng.random(s, dtype=np.float32) for n, s in shapes.items()}
        tensors["decode_head.batch_norm.num_batches_tracked"] = np.array(0)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return tuple(folders)


def b5_weights() -> list[Path]:
    return [folder / "model.safetensors" for folder in b5_members()]


def _output() -> Path:
    return Path(_folder().name) / "merged"


def _load_everything() -> Path:
    states = [load_file(path) for path in b5_weights()]
    merged: dict[str, Any] = {
        name: sum(state[name] for state in states) / np.float32(_MEMBERS)
        if name.startswith("segformer.")
        else tensor
        for name, tensor in states[0].items()
    }
    path = Path(_folder().name) / "everything.safetensors"
    save_file(merged, path)
    return path


def _tensor_by_tensor() -> Path:
    files = [safe_open(path, framework="np") for path in b5_weights()]
    merged: dict[str, Any] = {
        name: sum(file.get_tensor(name) for file in files) / np.float32(_MEMBERS)
        if name.startswith("segformer.")
        else files[0].get_tensor(name)
        for name in files[0].keys()  # noqa: SIM118
    }
    path = Path(_folder().name) / "by-tensor.safetensors"
    save_file(merged, path)
    return path


def _ours() -> Path:
    return merge(b5_members(), _output(), MergeOptions(overwrite=True)) / "model.safetensors"


def _difference(first: Path, second: Path) -> float:
    one, other = load_file(first), load_file(second)
    if one.keys() != other.keys():
        return float("inf")
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@row("merge-b5", peer="load everything, average, save", goal=2.0, tolerance=1e-6, memory=True)
def against_everything() -> Pair:
    """With every member's sha256."""
    b5_members()
    return Pair(_load_everything, _ours, _difference)


@row(
    "merge-b5-by-tensor", peer="safe_open, tensor by tensor", goal=1.5, tolerance=1e-6, memory=True
)
def against_tensor_by_tensor() -> Pair:
    """With every member's sha256."""
    b5_members()
    return Pair(_tensor_by_tensor, _ours, _difference)


def _floor() -> None:
    """Read all inputs, write as much as one of them: what no merge can be faster than."""
    first, *others = b5_weights()
    with first.open("rb") as file, (Path(_folder().name) / "copy").open("wb") as copy:
        while piece := file.read(PIECE):
            copy.write(piece)
    for path in others:
        with path.open("rb") as file:
            while file.read(PIECE):
                pass


def _command(*more: str) -> None:
    arguments = ["merge", *map(str, b5_members()), "--output", str(_output()), "--overwrite"]
    subprocess.run(
        [sys.executable, "-m", "revt_hf.cli.main", *arguments, "--quiet", *more], check=True
    )


def _against_floor(command: Callable[[], object]) -> Pair:
    b5_members()
    return Pair(_floor, command, lambda _first, _second: 0.0)


@row("merge-command", peer="the floor: read three, write one", goal=0.33, seconds=30.0)
def whole_command() -> Pair:
    """``revt merge`` with its start and every member's sha256; at most three times the floor."""
    return _against_floor(_command)


@row("merge-command-no-hash", peer="the floor: read three, write one", goal=0.5, seconds=30.0)
def whole_command_without_hashes() -> Pair:
    """``revt merge --no-hash``; at most twice the floor."""
    return _against_floor(partial(_command, "--no-hash"))


@row("merge-engine", peer="the floor: read three, write one", goal=0.5)
def engine() -> Pair:
    """The function without hashes and without Python's start."""
    return _against_floor(partial(_many, _MEMBERS))


def _many(count: int) -> Any:
    """For the table of members: the function without hashing, on the same files again."""
    members = [b5_members()[number % _MEMBERS] for number in range(count)]
    return merge(members, _output(), MergeOptions(overwrite=True, hashing=False))


@row("merge-8-members", peer="2 members", goal=0.25)
def eight_members() -> Pair:
    """Time grows with the number of members, four times for four times as many."""
    b5_members()
    return Pair(partial(_many, 2), partial(_many, 8), lambda _first, _second: 0.0)
