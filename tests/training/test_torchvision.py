"""What is saved does not depend on torchvision, with which transformers takes other classes."""

import json
import os
import subprocess
import sys

from tests.helpers.golden import ROOT

_SAVE = """
import json
from transformers.utils import is_torchvision_available
from tests.helpers.tiny import tiny_recipe
from revt_hf.training.setup import image_processor
print(is_torchvision_available(), end="\\0")
processor = image_processor(tiny_recipe(), (64, 128))
values = {**processor.to_dict(), "class": type(processor).__name__}
print(json.dumps(values), end="\\0")
"""
# Enough of the library to be imported from.
_MODULES = ("", "io", "transforms", "transforms/functional", "transforms/v2")
_CONTENT = """
from unittest.mock import MagicMock
__version__ = "0.99.0"
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock()
"""


def _saved(*more_paths):
    paths = [*map(str, more_paths), str(ROOT), str(ROOT / "tests" / "training")]
    done = subprocess.run(
        [sys.executable, "-c", _SAVE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    available, *processors = done.stdout.split("\0")[:-1]
    return available, [json.loads(text) for text in processors]


def test_the_image_processor_is_the_same_with_and_without(tmp_path):
    for name in (*_MODULES, "transforms/v2/functional"):
        folder = tmp_path / "torchvision" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(_CONTENT)
    metadata = tmp_path / "torchvision-0.99.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n"
    )
    available, there = _saved(tmp_path)
    assert available == "True"
    assert len(there) == 1
    assert there == _saved()[1]
    # The name that loads either way; transformers picks its own kind.
    assert {one["image_processor_type"] for one in there} == {"SegformerImageProcessor"}
