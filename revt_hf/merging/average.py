"""ReVT: the mean of the members' encoder tensors, the decode head of the first."""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from revt_hf import __version__
from revt_hf.checkpoints.names import BACKBONE_PREFIX, disk_name
from revt_hf.errors import UserError
from revt_hf.files import atomic_folder, check_output, write_json
from revt_hf.recorded import MERGE_FILE, recorded_evaluation

WEIGHTS_FILE = "model.safetensors"
_COPIED_FILES = ("config.json", "preprocessor_config.json")
_NAMED = 5


def mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Element-wise mean in the first tensor's dtype (ReVT, section 3.2).

    Summed in the order given, in float32 (float64 for float64 tensors): bit for bit what the
    original's ``tools/model_reparametrization.py`` gives for float32 files. Integer tensors are
    not averaged: the first is returned.
    """
    first = tensors[0]
    if not first.is_floating_point():
        return first
    total = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)
    for tensor in tensors[1:]:
        total += tensor
    return (total / len(tensors)).to(first.dtype)


def merge(members: Sequence[str | Path], output: str | Path, overwrite: bool = False) -> Path:
    """Write the ReVT of several SegFormer folders: an ordinary SegFormer folder.

    Encoder tensors (``segformer.*``) are averaged; the decode head, its BatchNorm statistics
    included, and the configuration come from the first member.

    Args:
        members: at least two folders with ``config.json`` and ``model.safetensors``.
        output: the new folder.
        overwrite: replace ``output`` if it exists.

    Raises:
        UserError: fewer than two members, a missing or broken file, keys or shapes that differ
            (they are named), or an output that exists. Nothing is written then.
    """
    folders = [Path(member) for member in members]
    target = Path(output)
    if len(folders) < 2:
        raise UserError("a merge needs at least two members")
    check_output(target, overwrite)
    for folder in folders:
        if target.resolve() == folder.resolve():
            raise UserError(f"the output {target} is also a member: choose another output")
    with ExitStack() as stack:
        readers = [_Reader(folder, stack) for folder in folders]
        for reader in readers[1:]:
            _check_same(readers[0], reader)
        merged = {
            name: (
                mean([reader.tensor(name) for reader in readers])
                if name.startswith(BACKBONE_PREFIX)
                else readers[0].tensor(name)
            )
            for name in sorted(readers[0].shapes)
        }
    broken = [name for name, tensor in merged.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(f"the merged tensor {broken[0]} holds NaN or infinity: check the members")
    with atomic_folder(target, overwrite) as scratch:
        # transformers wants to know the format; more than one key would be in random order.
        save_file(merged, scratch / WEIGHTS_FILE, metadata={"format": "pt"})
        for name in _COPIED_FILES:
            if (folders[0] / name).exists():
                shutil.copyfile(folders[0] / name, scratch / name)
        write_json(scratch / MERGE_FILE, _provenance(folders))
    return target


class _Reader:
    """One member's tensors under their on-disk names."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        path = folder / WEIGHTS_FILE
        for needed in (path, folder / "config.json"):
            if not needed.is_file():
                raise UserError(f"{folder} is not a SegFormer folder: {needed.name} is missing")
        try:
            self._file = stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise UserError(f"{path} is not a readable safetensors file: {error}") from error
        self._keys = {disk_name(key): key for key in self._file.keys()}  # noqa: SIM118
        self.shapes = {
            name: tuple(self._file.get_slice(key).get_shape()) for name, key in self._keys.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(self._keys[name])


def _check_same(first: _Reader, other: _Reader) -> None:
    problems = [
        *(f"{name} is missing" for name in sorted(first.shapes.keys() - other.shapes.keys())),
        *(f"{name} is extra" for name in sorted(other.shapes.keys() - first.shapes.keys())),
        *(
            f"{name} is {list(other.shapes[name])}, not {list(shape)}"
            for name, shape in sorted(first.shapes.items())
            if other.shapes.get(name, shape) != shape
        ),
    ]
    if problems:
        listed = "; ".join(problems[:_NAMED])
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(f"{other.folder} does not match {first.folder}: {listed}{more}")


def _provenance(folders: Sequence[Path]) -> dict[str, Any]:
    return {
        "method": "mean",
        "selection": f"{BACKBONE_PREFIX}*",
        "head": str(folders[0]),
        "members": [
            {"path": str(folder), "sha256": _sha256(folder / WEIGHTS_FILE)} for folder in folders
        ],
        # The averaged features keep the scale of pictures that the members were trained on.
        "evaluation": recorded_evaluation(folders[:1]).model_dump(mode="json"),
        "revt_hf": __version__,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
