"""Weights in several files, and the index that names them."""

from collections.abc import Mapping
from pathlib import Path

from revt_hf.checkpoints.headers import SAFETENSORS, TensorInfo, read_header
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object


def indexed(index: Path) -> list[Path]:
    """The files that a shard index names."""
    return [index.parent / name for name in sorted(set(_weight_map(index).values()))]


def _weight_map(index: Path) -> dict[str, str]:
    suffix = SAFETENSORS if SAFETENSORS in index.name else ".bin"
    shard_of = read_json_object(index).get("weight_map")
    if (
        not isinstance(shard_of, dict)
        or not shard_of
        or not all(
            # Nothing outside the folder is opened.
            isinstance(file, str) and file == Path(file).name and file.endswith(suffix)
            for file in shard_of.values()
        )
    ):
        raise UserError(
            f"{index} is not a shard index: it needs a weight_map of tensor to file name"
        )
    return shard_of


def shards(index: Path) -> tuple[Path, ...]:
    """The files of a shard index, which has to match them."""
    files = indexed(index)
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing, and {index} names it")
    if files[0].suffix == SAFETENSORS:
        check_shards(index, {file: read_header(file) for file in files})
    return tuple(files)


def check_shards(index: Path, infos: Mapping[Path, list[TensorInfo]]) -> None:
    """Refuse an index that does not fit its files' headers."""
    shard_of = _weight_map(index)
    held = [(info.name, file.name) for file, found in infos.items() for info in found]
    odd = set(held) ^ shard_of.items()
    if odd or len(held) != len(shard_of):
        raise UserError(f"{index} does not fit its shards: look for the tensor {min(odd)[0]!a}")
