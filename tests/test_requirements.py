"""What setup.cfg asks for: everything that is imported, at versions that are tried."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions

from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers.golden import ROOT

# torch 2.13 is the oldest that can be had for a CPU beside the other lowest versions.
_NOT_TRIED = {"torch"}
# Of the extra app; starlette comes with gradio.
_APP = {"gradio", "starlette"}


def _required():
    """Lowest versions of what setup.cfg requires, by name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", line).groups() for line in lines)


def test_the_lowest_versions_are_those_that_are_tried():
    lines = (ROOT / "constraints-min.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    required = _required()
    assert pins.keys() == required.keys()
    for name in pins.keys() - _NOT_TRIED:
        # Wheels of OpenCV have a fourth number.
        assert Version(".".join(pins[name].split(".")[:3])) == Version(required[name]), name


def test_everything_that_is_imported_is_required():
    imported = set()
    for path in (ROOT / "revt_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    found, required = packages_distributions(), {*map(canonicalize_name, _required())}
    # Extras, which are refused in one sentence where they are missing.
    for name in imported - sys.stdlib_module_names - {"revt_hf", "peft", "onnxruntime", *_APP}:
        assert required & {*map(canonicalize_name, found.get(name, [name]))}, name


def test_the_tests_of_the_lowest_versions_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = re.search(r"MIN_TESTS := ((?:.*\\\n)*.*)", makefile)[1].replace("\\", " ").split()
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []
