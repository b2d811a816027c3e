"""What is saved does not depend on torchvision, with which transformers takes other classes."""

import json
import subprocess
import sys

from conftest import ROOT

# transformers looks for the library where it is imported, and asks this function.
_PRETEND = """
import sys
from unittest.mock import MagicMock
import transformers.utils.import_utils as utils
there = sys.argv[1] == "there"
utils.is_torchvision_available = lambda: there
import transformers.utils
transformers.utils.is_torchvision_available = utils.is_torchvision_available
if there:
    for name in ("", ".io", ".transforms", ".transforms.v2", ".transforms.v2.functional"):
        sys.modules["torchvision" + name] = MagicMock()
from tiny import tiny_recipe
from revt_hf.converting.convert import _processor
from revt_hf.training.result import image_processor
for processor in (image_processor(tiny_recipe(), (64, 128)), _processor()):
    print(processor.to_json_string(), end="\\0")
"""


def _saved(where):
    done = subprocess.run(
        [sys.executable, "-c", _PRETEND, where],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'training'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.split("\0")[:-1]]


def test_the_image_processor_is_the_same_with_and_without():
    there, missing = _saved("there"), _saved("missing")
    assert len(there) == 2
    assert there == missing
    # The name that loads either way; transformers picks its own kind.
    assert {one["image_processor_type"] for one in there} == {"SegformerImageProcessor"}
