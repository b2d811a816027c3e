"""Read torch's own files (``.pth``, ``.bin``) without running what they may contain."""

import re
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from revt_hf.checkpoints.families import SEGFORMER, Family, is_counter
from revt_hf.checkpoints.headers import FLOATS, INTEGERS, SAFETENSORS, TensorInfo, read_header
from revt_hf.checkpoints.names import is_model_name, listed, standard_parts
from revt_hf.core.errors import UserError, readable

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype) for name, dtype in ({"BOOL": "bool"} | INTEGERS | FLOATS).items()
}
# An optimizer's averages may have the names of the tensors they belong to.
_OPTIMIZER = "optim"
_LARGEST_COUNT = 2**53
_UNKNOWN_OPERATION = "Unsupported operand"
_UNSAFE = "is refused, nothing in it was run"
_Found = tuple[tuple[str, ...], dict[str, torch.Tensor], dict[Any, Any]]
_REFUSED = re.compile(r"GLOBAL (\S+)")
_NUMBER_KINDS = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
# Needed to unpickle NumPy numbers; files of NumPy 1 name an older module.
_NUMPY_NUMBERS: list[Any] = [
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in _NUMBER_KINDS),
]


@dataclass(frozen=True)
class TorchFile:
    """The model in a torch file: tensors by on-disk name, contiguous, no two sharing memory.

    ``names`` are their names in the file, ``classes`` those that ``meta`` holds.
    """

    tensors: dict[str, torch.Tensor]
    names: dict[str, str]
    dropped: tuple[str, ...]
    classes: tuple[str, ...] | None


def read_torch_file(path: Path, *shards: Path, family: Family = SEGFORMER) -> TorchFile:
    """Read the model of a file that ``torch.save`` wrote, and of its shards; nothing in it is run.

    The tensors may lie under any keys at any depth; anything beside them (an optimizer) is ignored.
    Of other families than SegFormer, they have to lie at the top, as transformers writes them.
    """
    find = _state_dict if family is SEGFORMER else _named_tensors
    state, classes = find(path, _load(path))
    for shard in shards:
        state |= find(shard, _load(shard))[0]
    shapes = {name: at.shape for name, at in state.items()}
    parts, dropped = standard_parts(str(path), shapes, family)
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for on_disk, (name, half, halves) in parts.items():
        tensor = state[name].detach()
        _check(path, name, tensor)
        if halves > 1:
            tensor = tensor.chunk(halves)[half]
        if is_counter(on_disk):
            tensor = _whole(path, name, tensor)
        storage = tensor.untyped_storage().data_ptr()
        if storage in storages:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        tensors[on_disk] = tensor.contiguous()
        storages.add(storage)
    names = {on_disk: part.name for on_disk, part in parts.items()}
    return TorchFile(tensors, names, dropped, classes)


def read_tensor(info: TensorInfo) -> torch.Tensor:
    """Read a tensor of a safetensors file to the CPU, into memory of its own."""
    dtype = DTYPES.get(info.dtype)
    if dtype is None:
        raise UserError(f"{info.file}: {info.name} is of dtype {info.dtype}: convert it first")
    if not info.nbytes:
        return torch.empty(info.shape, dtype=dtype)
    data = bytearray(info.nbytes)
    with readable(info.file), info.file.open("rb") as file:
        file.seek(info.offset)
        count = file.readinto(data)
    if count != info.nbytes:
        raise UserError(f"{info.file} ended while it was read: copy it again")
    return torch.frombuffer(data, dtype=dtype).reshape(info.shape)


def _load(path: Path) -> Any:
    if path.suffix == SAFETENSORS:
        return {info.name: read_tensor(info) for info in read_header(path)}
    try:
        # Files from before torch 1.6 are not archives, and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals(_NUMPY_NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    # Damaged bytes raise nearly anything.
    except Exception as error:
        refused = _REFUSED.search(str(error))
        why = "is not a torch checkpoint of tensors and plain values, or it is damaged"
        if refused:
            why = f"{_UNSAFE}: it asks for {refused[1]}, and only tensors and plain values are read"
        elif _UNKNOWN_OPERATION in str(error):
            why = (
                f"{_UNSAFE}: its pickle has operations that torch's safe reader does not know; "
                "save it again with torch.save's own protocol"
            )
        raise UserError(f"{path} {why}") from error


def _state_dict(path: Path, content: Any) -> tuple[dict[str, torch.Tensor], tuple[str, ...] | None]:
    """The model's tensors, and the classes in the nearest ``meta`` above or beside them."""
    everything = list(_dicts(content))
    models = [one for one in everything if any(map(is_model_name, one[1]))]
    if len(models) > 1:
        keys = listed(".".join(keys) or "the top" for keys, _, _ in models)
        raise UserError(
            f"{path} holds several models, under {keys}: save the one you want in a separate file"
        )
    if not models:
        tensors = [".".join((*keys, name)) for keys, state, _ in everything for name in state]
        top = list(map(str, content)) if isinstance(content, dict) else []
        raise UserError(
            f"{path} holds no named tensors of a SegFormer, neither at the top nor deeper; it "
            f"holds {listed(tensors or top) or type(content).__name__}"
        )
    _, state, meta = models[0]
    found = meta.get("CLASSES")
    named = isinstance(found, list | tuple) and all(isinstance(name, str) for name in found)
    return state, tuple(found) if found and named else None


def _named_tensors(path: Path, content: Any) -> tuple[dict[str, torch.Tensor], None]:
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise UserError(f"{path} is not a state dict as transformers writes it: save it again")
    return content, None


def _dicts(content: Any) -> Iterator[_Found]:
    """The keys, named tensors and nearest ``meta`` of every dict, each once, even in a circle."""
    waiting: deque[tuple[tuple[str, ...], Any, dict[Any, Any]]] = deque([((), content, {})])
    seen = set()
    while waiting:
        keys, place, meta = waiting.popleft()
        if id(place) in seen or not isinstance(place, dict | list | tuple):
            continue
        seen.add(id(place))
        if isinstance(place, dict):
            if isinstance(place.get("meta"), dict):
                meta = place["meta"]
            named = {name: inner for name, inner in place.items() if isinstance(name, str)}
            yield keys, {n: t for n, t in named.items() if isinstance(t, torch.Tensor)}, meta
            inside = {name: at for name, at in named.items() if _OPTIMIZER not in name.lower()}
        else:
            inside = {str(number): inner for number, inner in enumerate(place)}
        waiting += (((*keys, key), inner, meta) for key, inner in inside.items())


def _check(path: Path, name: str, tensor: torch.Tensor) -> None:
    plain = (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in DTYPES.values()
        # A view can repeat a few numbers endlessly.
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )
    if not plain:
        raise UserError(f"{path}: {name} is not an ordinary tensor of numbers")


def _whole(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The count of batches as an integer; averaging scripts turn it into a float."""
    if not tensor.is_floating_point():
        return tensor
    whole = tensor.isfinite().all() and bool((tensor == tensor.round()).all())
    if not whole or bool((tensor.abs() > _LARGEST_COUNT).any()):
        raise UserError(
            f"{path}: {name} counts batches and is no whole number: remove it, 0 is taken then"
        )
    return tensor.to(torch.int64)
