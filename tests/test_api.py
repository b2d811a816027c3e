"""The public API: everything it lists is there, documented, typed, and loads when it is used."""

import ast
import inspect
import re
import subprocess
import sys

import pytest

import revt_hf
from tests.helpers.golden import ROOT


def test_importing_loads_neither_torch_nor_transformers():
    code = (
        "import sys, time; since = time.perf_counter(); import revt_hf; "
        "revt_hf.__all__; dir(revt_hf); assert time.perf_counter() - since < 0.1; "
        "assert not {'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_type_checkers_see_what_is_exported():
    tree = ast.parse((ROOT / "revt_hf" / "__init__.py").read_text())
    typed = {
        (node.module.removeprefix("revt_hf."), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("revt_hf.")
        for alias in node.names
    }
    assert typed == {(module, name) for name, module in revt_hf._HOMES.items()}


def test_the_reference_lists_everything_once():
    listed = re.findall(r"^::: revt_hf\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert sorted(listed) == revt_hf.__all__


@pytest.mark.parametrize("name", revt_hf.__all__)
def test_everything_exported_has_a_docstring_and_functions_are_typed(name):
    exported = getattr(revt_hf, name)
    assert not callable(exported) or inspect.getdoc(exported)
    if inspect.isfunction(exported):
        signature = inspect.signature(exported)
        annotations = [parameter.annotation for parameter in signature.parameters.values()]
        assert inspect.Parameter.empty not in (signature.return_annotation, *annotations)


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        revt_hf.nothing  # noqa: B018


def test_no_name_is_hidden_by_a_package():
    packages = {path.name for path in (ROOT / "revt_hf").iterdir() if path.is_dir()}
    assert packages.isdisjoint(revt_hf.__all__)
