"""What setup.cfg asks for: everything that is imported, at versions that are tried."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions

from tests.helpers.golden import ROOT

# torch 2.13 is the oldest that can be had for a CPU beside the other lowest versions.
_NOT_TRIED = {"torch"}


def _required():
    """Lowest versions of what setup.cfg requires, by name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", line).groups() for line in lines)


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version):
    numbers = [int(part) for part in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def test_the_lowest_versions_are_those_that_are_tried():
    lines = (ROOT / "constraints-min.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    required = _required()
    assert pins.keys() == required.keys()
    for name in pins.keys() - _NOT_TRIED:
        # Wheels of OpenCV have a fourth number.
        tried = _numbers(".".join(pins[name].split(".")[:3]))
        assert tried == _numbers(required[name]), name


def test_everything_that_is_imported_is_required():
    imported = set()
    for path in (ROOT / "revt_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    found = packages_distributions()
    required = {_normal(name) for name in _required()}
    missing = {
        name
        for name in imported - sys.stdlib_module_names - {"revt_hf"}
        if not required & {_normal(one) for one in found.get(name, [name])}
    }
    assert not missing
