"""What tests of benchmarks have in common: no machine code, no bars, no processes."""

import torch
from tqdm import tqdm

CPU = torch.device("cpu")


def bar():
    return tqdm(total=0, disable=True)


def compile_without_code(monkeypatch):
    """Let ``torch.compile`` run its graphs as they are; the calls that it gets."""
    really, calls = torch.compile, []

    def compiling(function, **options):
        calls.append(options)
        return really(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compiling)
    return calls


def no_compiler(monkeypatch):
    """Let what was compiled fail when it first runs, as without a C++ compiler."""

    def compiling(function, **options):
        def failing(*arguments, **keywords):
            raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: No working C++")

        return failing

    monkeypatch.setattr(torch, "compile", compiling)
