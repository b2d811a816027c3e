"""What tests of benchmarks have in common: no machine code, no bars."""

import torch
from tqdm import tqdm

CPU, BAR = torch.device("cpu"), tqdm(total=0, disable=True)
NO_COMPILER = "torch.compile failed: InvalidCxxCompiler: No working C++"


def compile_without_code(monkeypatch, fails=False):
    """``torch.compile`` runs graphs as they are, or fails at the first call; the calls it gets."""
    really, calls = torch.compile, []

    def failing(*arguments, **keywords):
        raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: No working C++")

    def compiling(function, **options):
        calls.append(options)
        return failing if fails else really(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compiling)
    return calls
