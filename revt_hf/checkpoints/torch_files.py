"""Read torch's own files (``.pth``, ``.bin``) without running what they may hold."""

import re
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import save_file

from revt_hf.checkpoints.headers import read_header
from revt_hf.checkpoints.names import COUNTER, memory_names
from revt_hf.checkpoints.tensors import SAFETENSORS, TensorPlace, standard_name
from revt_hf.checkpoints.wrapping import is_model_name, listed, unwrap
from revt_hf.core.errors import UserError

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
# An optimizer's averages may be called like the tensors that they belong to.
_OPTIMIZER = "optim"
_LARGEST_COUNT = 2**53
_UNKNOWN_OPERATION = "Unsupported operand"
_REFUSED = re.compile(r"GLOBAL (\S+)")
_NUMBER_KINDS = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
# What a NumPy number in a pickle asks for; files of NumPy 1 name an older module.
_NUMPY_NUMBERS: list[Any] = [
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in _NUMBER_KINDS),
]


@dataclass(frozen=True)
class TorchFile:
    """A torch file's model.

    Attributes:
        tensors: on-disk name -> tensor on the CPU, contiguous, no two sharing memory; mapped
            from the file where its format allows it.
        names: on-disk name -> name in the file.
        dropped: names in the file that no SegFormer has: the unused ``conv_seg``, averages.
        meta: what the original keeps beside the tensors (``CLASSES``, ``iter``, ...).
    """

    tensors: dict[str, torch.Tensor]
    names: dict[str, str]
    dropped: tuple[str, ...]
    meta: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names in ``meta``, if there are any."""
        found = self.meta.get("CLASSES")
        named = isinstance(found, list | tuple) and all(isinstance(name, str) for name in found)
        return tuple(found) if found and named else None


def rewrite(paths: Sequence[Path], target: Path) -> TorchFile:
    """Write the model of a torch file, or of its shards, as safetensors with on-disk names.

    Raises:
        UserError: as :func:`read_torch_file`; or ``target`` cannot be written.
    """
    read = read_torch_file(*paths)
    try:
        save_file(read.tensors, target, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write the tensors of {paths[0]} to the temporary folder {target.parent}: "
            f"{error}"
        ) from error
    return read


def read_torch_file(path: Path, *shards: Path) -> TorchFile:
    """Read the model of a file that ``torch.save`` wrote.

    The tensors may lie at the top or under any keys (``state_dict``, ``model_state_dict``,
    ``net``), in any depth, and their names may begin with ``module.`` or another prefix
    (:func:`revt_hf.checkpoints.wrapping.unwrap`) and be the original's (with or without
    ``backbone.``) or transformers'. What lies beside them (an optimizer) is left. The classifier
    of an ImageNet encoder gets transformers' name, too.

    Args:
        path: the file.
        shards: further files of the same model.

    Raises:
        UserError: the file cannot be read, asks for more than tensors and plain values (which
            one is named), or holds no model, several, one tensor twice, or one that is not dense.
    """
    state, meta = _state_dict(path, _load(path))
    for shard in shards:
        state |= _state_dict(shard, _load(shard))[0]
    found = unwrap(str(path), list(state))
    tensors: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    dropped = [*found.dropped]
    storages: set[int] = set()
    for name, full_name in found.names.items():
        tensor = state[name]
        _check(path, name, tensor)
        targets = memory_names(full_name)
        if not targets:
            dropped.append(name)
        for target, part in zip(targets, _parts(path, name, tensor, len(targets)), strict=True):
            on_disk = standard_name(target)
            if on_disk == COUNTER:
                part = _whole(path, name, part)
            if on_disk in tensors:
                raise UserError(
                    f"{path} holds one tensor under two names, {names[on_disk]} and {name}: "
                    "remove one"
                )
            storage = part.untyped_storage().data_ptr()
            if storage in storages:
                part = part.clone(memory_format=torch.contiguous_format)
            tensors[on_disk] = part.contiguous()
            names[on_disk] = name
            storages.add(storage)
    if not tensors:
        raise UserError(f"{path} holds no tensors of a model")
    return TorchFile(tensors, names, tuple(dropped), meta)


def read_tensor(place: TensorPlace) -> torch.Tensor:
    """A tensor of a safetensors file, on the CPU, with memory of its own.

    Raises:
        UserError: the file cannot be read, or the dtype is not one of torch's usual ones.
    """
    dtype = DTYPES.get(place.dtype)
    if dtype is None:
        raise UserError(f"{place.file}: {place.name} is of dtype {place.dtype}: convert it first")
    if not place.nbytes:
        return torch.empty(place.shape, dtype=dtype)
    data = bytearray(place.nbytes)
    try:
        with place.file.open("rb") as file:
            file.seek(place.offset)
            whole = file.readinto(data) == place.nbytes
    except OSError as error:
        raise UserError(f"cannot read {place.file}: {error.strerror or error}") from error
    if not whole:
        raise UserError(f"{place.file} ended while it was read: copy it again")
    return torch.frombuffer(data, dtype=dtype).reshape(place.shape)


def _load(path: Path) -> Any:
    if path.suffix == SAFETENSORS:
        return {place.name: read_tensor(place) for place in read_header(path)}
    try:
        # Files from before torch 1.6 are not archives, and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals(_NUMPY_NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    # Bytes that make no sense raise nearly anything.
    except Exception as error:
        refused = _REFUSED.search(str(error))
        if refused:
            raise UserError(
                f"{path} is refused, nothing in it was run: it asks for {refused[1]}, and only "
                "tensors and plain values are read"
            ) from error
        if _UNKNOWN_OPERATION in str(error):
            raise UserError(
                f"{path} is refused, nothing in it was run: its pickle has operations that torch's "
                "safe reader does not know; save it again with torch.save's own protocol"
            ) from error
        raise UserError(
            f"{path} is not a torch checkpoint of tensors and plain values, or it is damaged"
        ) from error


def _state_dict(path: Path, content: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The model's tensors, and the ``meta`` that lies nearest to them."""
    found = _models(content)
    if len(found) > 1:
        keys = listed(".".join(keys) or "the top" for keys, _ in found)
        raise UserError(
            f"{path} holds several models, under {keys}: save the one that is wanted as a file "
            "of its own"
        )
    if not found:
        keys = listed(".".join(keys) for keys in _keys(content)) or type(content).__name__
        raise UserError(
            f"{path} holds no named tensors of a SegFormer, neither at the top nor deeper; it "
            f"holds {keys}"
        )
    way, place = found[0]
    meta: dict[str, Any] = {}
    for key in (*way, ""):
        if isinstance(content, dict) and isinstance(content.get("meta"), dict):
            meta = content["meta"]
        content = dict(_inner(content)).get(key)
    return dict(_named_tensors(place)), meta


def _models(content: Any) -> list[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Keys and content of every dict in which tensors of a SegFormer lie by their names."""
    return [
        (keys, place)
        for keys, place in _dicts(content)
        if any(is_model_name(name) for name, _ in _named_tensors(place))
    ]


def _dicts(content: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """A dict and those in it by their keys, each once: one object may lie under many."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    seen = set()
    while waiting:
        keys, place = waiting.popleft()
        if id(place) in seen:
            continue
        seen.add(id(place))
        if isinstance(place, dict):
            yield keys, place
        waiting += (((*keys, key), inner) for key, inner in _inner(place))


def _inner(place: Any) -> Iterator[tuple[str, Any]]:
    """What else may hold the model in a dict, a list or a tuple; places in a list are keys."""
    items = enumerate(place) if isinstance(place, list | tuple) else ()
    for key, inner in place.items() if isinstance(place, dict) else items:
        is_name = isinstance(key, str) and _OPTIMIZER not in key.lower()
        if isinstance(inner, dict | list | tuple) and (is_name or isinstance(place, list | tuple)):
            yield str(key), inner


def _keys(content: Any) -> Iterator[tuple[str, ...]]:
    """Where tensors lie; without any, what is at the top."""
    found = [(*keys, name) for keys, place in _dicts(content) for name, _ in _named_tensors(place)]
    top = content if isinstance(content, dict) else ()
    yield from found or ((str(key),) for key in top)


def _named_tensors(place: dict[Any, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in place.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            yield name, value


def _check(path: Path, name: str, tensor: torch.Tensor) -> None:
    plain = (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in DTYPES.values()
        # A view can repeat few numbers without end.
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )
    if not plain:
        raise UserError(f"{path}: {name} is not an ordinary tensor of numbers")


def _whole(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A count of batches, which scripts that average turn into a float, as a whole number."""
    if not tensor.is_floating_point():
        return tensor
    whole = tensor.isfinite().all() and bool((tensor == tensor.round()).all())
    if not whole or bool((tensor.abs() > _LARGEST_COUNT).any()):
        raise UserError(
            f"{path}: {name} counts batches and is no whole number: remove it, 0 is taken then"
        )
    return tensor.to(torch.int64)


def _parts(path: Path, name: str, tensor: torch.Tensor, parts: int) -> list[torch.Tensor]:
    """The halves of a fused key-value tensor, or the tensor itself; key first."""
    if parts < 2:
        return [tensor.detach()] * parts
    if not tensor.ndim or tensor.shape[0] % 2 or not tensor.shape[0]:
        raise UserError(f"{path}: {name} is {list(tensor.shape)} and holds no key and value")
    return list(tensor.detach().chunk(parts))
