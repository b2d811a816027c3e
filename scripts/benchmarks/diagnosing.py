"""Rows of comparing three SegFormer-B5: as a function, and as the whole command."""

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.merging import PIECE, b5_members, b5_weights
from benchmarks.runner import Pair, row
from revt_hf.analysis.similarity import similarity


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that lasts as long as the process."""
    return tempfile.TemporaryDirectory()


def _floor() -> None:
    """Read all inputs: what no comparison can be faster than."""
    for path in b5_weights():
        with path.open("rb") as file:
            while file.read(PIECE):
                pass


def _function() -> None:
    similarity(list(map(str, b5_members())))


def _command() -> None:
    output = Path(_folder().name) / "similarity"
    arguments = [*map(str, b5_members()), "--output", str(output), "--overwrite", "--no-plot"]
    command = [sys.executable, "-m", "revt_hf.cli.main", "diagnose", "similarity", "--quiet"]
    subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)


@row("similarity", peer="the floor: read three B5", goal=0.33, memory=True)
def function() -> Pair:
    """All sums in float64; at most three times the floor."""
    b5_members()
    return Pair(_floor, _function, lambda _first, _second: 0.0)


@row("similarity-command", peer="the floor: read three B5", goal=0.33, seconds=30.0)
def whole_command() -> Pair:
    """``revt diagnose similarity --no-plot`` with its start."""
    b5_members()
    return Pair(_floor, _command, lambda _first, _second: 0.0)
