"""A row of merging three SegFormer-B5 of a Hub on this machine: in parts, or downloaded first."""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.merging import b5_members
from benchmarks.runner import Pair, row

_ROOT = Path(__file__).resolve().parents[2]
# The Hub of the tests: files lie on a second port, and nothing slows them down.
_SERVER = """
import sys
from pathlib import Path
from tests.helpers.hub_repository import Hub, Repository, files_of
from tests.helpers.hub_server import TOKEN, serve_hub
held = {("models", f"org/{at}"): Repository(files_of(Path(f))) for at, f in enumerate(sys.argv[1:])}
with serve_hub(Hub(TOKEN, repositories=held, ranges=True)) as hub:
    print(hub.endpoint, flush=True)
    sys.stdin.read()
"""
_FETCH = """
import sys
from revt_hf.checkpoints.download import fetch
for name in sys.argv[1:]:
    fetch(name, quiet=True)
"""
_IDS = ("org/0", "org/1", "org/2")


@cache
def _endpoint() -> str:
    """Address of a server that ends with this process, whose end closes its input."""
    command = [sys.executable, "-c", _SERVER, *map(str, b5_members())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(command, cwd=_ROOT, text=True, **pipes)  # type: ignore[call-overload]
    return str(server.stdout.readline().strip())


def _merged(download: bool) -> bytes:
    """The result's tensors, with an empty cache before."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"HF_ENDPOINT": _endpoint(), "HF_HUB_CACHE": folder, "HF_HUB_DISABLE_XET": "1"}
        python, environment = [sys.executable], {**os.environ, **own}
        if download:
            subprocess.run([*python, "-c", _FETCH, *_IDS], env=environment, check=True)
        output = Path(folder) / "merged"
        command = ["-m", "revt_hf.cli.main", "merge", *_IDS, "--output", str(output), "--quiet"]
        subprocess.run([*python, *command], env=environment, check=True)
        content = (output / "model.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


@row("merge-hub", peer="download three B5, merge them", goal=1.0, repeats=3, seconds=60.0)
def in_parts() -> Pair:
    """``revt merge`` of Hub IDs with an empty cache; the peer's members are hashed twice."""
    _merged(download=False)
    return Pair(
        lambda: _merged(download=True),
        lambda: _merged(download=False),
        lambda first, second: float(first != second),
    )
