"""Headers of safetensors files (https://github.com/huggingface/safetensors#format)."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from revt_hf.core.errors import UserError, readable

SAFETENSORS = ".safetensors"
# What revt export writes.
ONNX = ".onnx"
ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
INTEGERS = {"U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # safetensors' own bound
_MOST_DIMENSIONS = 64  # torch's
_ALIGNMENT = 8
_PIECE_BYTES = 1 << 20
METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor's bytes lie in a safetensors file; ``dtype`` is safetensors' name."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> list[TensorInfo]:
    """A safetensors file's tensors in the order of their bytes; as strict as safetensors itself."""
    with readable(path), path.open("rb") as file:
        return parse_header(path, os.fstat(file.fileno()).st_size, file.read)[0]


def parse_header(
    path: Path, size: int, read: Callable[[int], bytes]
) -> tuple[list[TensorInfo], dict[str, str]]:
    """As :func:`read_header`, and the metadata.

    ``read`` gives that many further bytes of the file, whose length is ``size``.
    """
    length = int.from_bytes(read(_LENGTH_BYTES), "little") if size >= _LENGTH_BYTES else 0
    start = _LENGTH_BYTES + length
    if size < _LENGTH_BYTES or length > _LONGEST_HEADER or start > size:
        raise _broken(path, f"{size} bytes do not hold the header that it announces")
    raw = read(length)
    try:
        header = json.loads(raw.decode("utf-8"))
    # The decoder limits its own depth, and refuses numbers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its header is not JSON") from error
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        raise _broken(path, "its header is not a JSON object")
    metadata = header.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, f"{METADATA} is not an object of strings")
    infos = [_tensor_info(path, name, entry, start) for name, entry in header.items()]
    infos.sort(key=lambda info: (info.offset, info.nbytes))
    _check_bytes(path, infos, start, size)
    return infos, metadata


def header_bytes(entries: Mapping[str, Any]) -> bytes:
    """A file's first bytes; ``entries`` are those of its JSON header, with ``__metadata__``."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def tensors_hash(entries: Iterable[tuple[str, str, tuple[int, ...]]]) -> "hashlib._Hash":
    """Start a sha256 of tensors (name, dtype, shape); their bytes follow in the same order."""
    listed = [[name, dtype, list(shape)] for name, dtype, shape in entries]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode())


def tensors_sha256(path: Path) -> str:
    """sha256 of a safetensors file's tensors: names, dtypes, shapes and bytes."""
    infos = read_header(path)
    digest = tensors_hash((info.name, info.dtype, info.shape) for info in infos)
    with readable(path), path.open("rb") as file:
        file.seek(infos[0].offset if infos else 0)
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def common_dtype(dtypes: Iterable[str]) -> str:
    """The dtype for ``config.json`` that represents every float tensor exactly."""
    found = {FLOATS[dtype] for dtype in dtypes if dtype in FLOATS}
    return found.pop() if len(found) == 1 else "float64" if "float64" in found else "float32"


def _tensor_info(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    label = ascii(name)
    if not is_storable(name):
        raise _broken(path, f"{label} is not a valid name")
    if not isinstance(entry, dict):
        raise _broken(path, f"{label} is not described by an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise _broken(path, f"{label} is of an unknown dtype, {ascii(dtype)[:20]}")
    if not _sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise _broken(path, f"{label} has no valid shape")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"{label} has no valid data_offsets")
    first, last = offsets
    if last - first != math.prod(shape) * ITEM_SIZES[dtype]:
        raise _broken(path, f"the bytes of {label} are not as many as its shape needs")
    return TensorInfo(path, name, dtype, tuple(shape), start + first, last - first)


def is_storable(name: str) -> bool:
    """Whether a name is valid UTF-8: JSON can express a lone surrogate, which is not."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _sizes(value: Any) -> TypeGuard[list[int]]:
    # In Python true is an int, too.
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_bytes(path: Path, infos: list[TensorInfo], start: int, size: int) -> None:
    """Refuse files in which a byte after the header does not belong to exactly one tensor."""
    end, before = start, ""
    for info in infos:
        name = ascii(info.name)
        if info.offset + info.nbytes > size:
            raise _broken(path, f"it ends before its tensor {name} does, copy it again")
        if info.offset < end:
            raise _broken(path, f"{before} and {name} overlap")
        if info.offset > end:
            raise _broken(path, f"the bytes before {name} belong to no tensor")
        end, before = info.offset + info.nbytes, name
    if end != size:
        raise _broken(path, "it goes on after its last tensor")


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not a readable safetensors file: {why}")


def refuse_graph(path: Path) -> None:
    """Refuse a file of ``revt export`` where a model's tensors are needed."""
    if path.suffix.lower() == ONNX:
        raise UserError(
            f"{path} is an exported graph, which revt predict, evaluate and benchmark run: give "
            "the folder of the model that it was made from"
        )
