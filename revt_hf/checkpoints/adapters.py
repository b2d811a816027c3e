"""LoRA adapters as PEFT saves them: the whole model that one makes of its base.

LoRA: https://arxiv.org/abs/2106.09685; rsLoRA: 2312.03732; DoRA: 2402.09353; PiSSA: 2404.02948.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
import torch

from revt_hf.checkpoints.adapter_names import described_names, leading_part
from revt_hf.checkpoints.families import Family
from revt_hf.checkpoints.headers import FLOATS, TensorInfo, header_bytes, read_header
from revt_hf.checkpoints.names import IMAGENET_CLASSIFIER, listed, standard_name
from revt_hf.checkpoints.tensors import ADAPTER_WEIGHTS_FILE, Checkpoint, base_source
from revt_hf.checkpoints.torch_files import DTYPES, read_tensor
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.outputs import ADAPTER_CONFIG_FILE, read_json_object

_PREFIX = "base_model.model."
_DOWN, _UP, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_WRAPPED = ".base_layer."
_PATTERN_SECONDS = 2
# Fields that say how an adapter was trained or where it sits, not what its tensors mean; and those
# that are read below.
_KNOWN = """
    task_type auto_mapping peft_version base_model_name_or_path revision inference_mode peft_type
    target_modules exclude_modules layers_to_transform layers_pattern modules_to_save bias
    lora_dropout qalora_group_size megatron_core runtime_config ensure_weight_tying eva_config
    r lora_alpha rank_pattern alpha_pattern use_rslora use_dora init_lora_weights
"""
# These initialisations leave the base's weights unchanged. All others change them, and only the
# change of exact PiSSA can be computed again from the base.
_NEUTRAL_INITS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_PISSA = "pissa"
_TYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Update:
    """A low-rank update of a weight (out, in) or (out, in, kh, kw): ``scale * up @ down``."""

    down: TensorInfo
    up: TensorInfo
    scale: float
    magnitude: TensorInfo | None
    pissa: bool

    @property
    def module(self) -> str:
        """The updated module's name in memory."""
        return self.down.name.removeprefix(_PREFIX).removesuffix(_DOWN)

    def factors(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``up`` (out, r), scaled, and ``down`` (r, in * kh * kw) of the weight's change, float64.

        Magnitudes are left out. A PiSSA's rank doubles: training began from what the largest
        singular values leave of the weight.
        """
        down, up = (read_tensor(info).double().flatten(1) for info in (self.down, self.up))
        up = self.scale * up
        if self.pissa:
            left, values, right = torch.linalg.svd(weight.double().flatten(1), full_matrices=False)
            rank = len(down)
            up = torch.cat([up, -left[:, :rank] * values[:rank]], 1)
            down = torch.cat([down, right[:rank]])
        return up, down

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The updated weight, computed in float64."""
        up, down = self.factors(weight)
        rows = weight.double().flatten(1) + up @ down
        if self.magnitude is not None:
            magnitude = read_tensor(self.magnitude).double().reshape(-1, 1)
            rows = rows * (magnitude / torch.linalg.norm(rows, dim=1, keepdim=True))
        return rows.reshape(weight.shape)


@dataclass(frozen=True)
class Adapter:
    """An adapter: updates of its base's tensors, and tensors in place of the base's.

    Both are by on-disk name in the whole model; ``base`` is the folder or Hub ID that it was
    trained on. ``places`` are the names on disk of all that the whole model has; None is any.
    """

    folder: Path
    config: dict[str, Any]
    base: str
    updates: dict[str, Update]
    replaced: dict[str, TensorInfo]
    family: Family
    places: frozenset[str] | None

    def base_tensors(self, base: Checkpoint) -> dict[str, TensorInfo]:
        """Those of a base that the whole model has, by their names there.

        A base is often an encoder by itself, or one with a classifier of ImageNet.
        """
        if self.places is None:
            held = base.tensors.items()
            return {name: at for name, at in held if not name.startswith(IMAGENET_CLASSIFIER)}
        found: dict[str, TensorInfo] = {}
        for prefix in {"", base.family.prefix}:
            bare = {name.removeprefix(prefix): info for name, info in base.tensors.items()}
            lead = leading_part(bare, self.places)
            named = {f"{lead}{name}": info for name, info in bare.items()}
            here = {name: named[name] for name in sorted(self.places & named.keys())}
            found = max(found, here, key=len)
        # Single layers may lie elsewhere, as a Swin's last norm.
        used = set(map(id, found.values()))
        for name, info in base.tensors.items():
            if id(info) not in used:
                left = [at for at in self.places - found.keys() if at.endswith(f".{name}")]
                if len(left) == 1 and self.family.in_encoder(left[0]):
                    found[left[0]] = info
        return found

    @property
    def files(self) -> tuple[Path, Path]:
        """Its weights and its configuration."""
        return self.folder / ADAPTER_WEIGHTS_FILE, self.folder / ADAPTER_CONFIG_FILE

    def check(self, base: dict[str, TensorInfo]) -> None:
        """Refuse an adapter that does not fit the tensors of its base."""
        for name, update in self.updates.items():
            if name not in base or base[name].dtype not in FLOATS:
                raise self._wrong(f"{update.down.name} updates {name}, which {self.base} lacks")
            shape, rank = base[name].shape, update.down.shape[0]
            wide = (rank, *shape[1:])
            tall = (shape[0], rank, *(1 for _ in shape[2:]))
            magnitudes = update.magnitude is None or math.prod(update.magnitude.shape) == shape[0]
            if update.down.shape != wide or update.up.shape != tall or not magnitudes:
                raise self._wrong(
                    f"{update.down.name} and its {_UP[1:]} do not make an update of {name} "
                    f"{list(shape)} of {self.base}"
                )
        for name, info in self.replaced.items():
            # A head may have other classes than the base's.
            if name in base and base[name].shape != info.shape and self.family.in_encoder(name):
                raise self._wrong(
                    f"{info.name} is {list(info.shape)}, not {list(base[name].shape)}"
                )

    def write(self, base: dict[str, TensorInfo], path: Path) -> None:
        """Write base and adapter as one safetensors file, one tensor at a time."""
        self.check(base)
        entries: dict[str, Any] = {}
        end = 0
        for name, info in (base | self.replaced).items():
            dtype, shape = self._dtype(name, info), list(info.shape)
            first, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}
        with readable_os_errors(path), path.open("wb") as file:
            file.write(header_bytes({"__metadata__": {"format": "pt"}, **entries}))
            for name, info in (base | self.replaced).items():
                tensor = read_tensor(info)
                if name in self.updates:
                    tensor = self.updates[name].apply(tensor).to(DTYPES[entries[name]["dtype"]])
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def _dtype(self, name: str, info: TensorInfo) -> str:
        """The dtype of a result: the wider one, so that an update is not rounded away."""
        if name not in self.updates:
            return info.dtype
        wider = torch.promote_types(DTYPES[info.dtype], DTYPES[self.updates[name].up.dtype])
        return _TYPES[wider]

    def _wrong(self, why: str) -> UserError:
        return UserError(f"{self.files[0]}: {why}")


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's configuration and header, and refuse what would be computed otherwise."""
    path = folder / ADAPTER_CONFIG_FILE
    config = read_json_object(path)
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{path}: peft_type is {config.get('peft_type')!a}, only LORA is known here"
        )
    init = config.get("init_lora_weights")
    if init not in (*_NEUTRAL_INITS, _PISSA):
        raise UserError(
            f"{path}: init_lora_weights is {init!a}, which changed the base's weights: save the "
            "adapter again with PEFT's path_initial_model_for_weight_conversion"
        )
    odd = [key for key, value in config.items() if value and key not in _KNOWN.split()]
    if odd:
        raise UserError(f"{path}: {odd[0]} is {config[odd[0]]!a}, and only null is known here")
    base = base_source(folder)
    infos = {info.name: info for info in read_header(folder / ADAPTER_WEIGHTS_FILE)}
    family, names = described_names(folder)
    updates = dict(_updates(config, path, infos))
    used = {one.name for up in updates.values() for one in (up.down, up.up, up.magnitude) if one}
    rest = {name: info for name, info in infos.items() if name not in used}
    odd = [name for name in rest if not name.startswith(_PREFIX) or ".lora_" in name]
    if odd:
        raise UserError(f"{folder / ADAPTER_WEIGHTS_FILE}: unknown tensors {listed(odd)}")
    # PEFT wraps the modules that it updates; `bias: all` saves their biases from inside.
    bare = {name: name.removeprefix(_PREFIX).replace(_WRAPPED, ".") for name in rest}
    if names is None:
        on_disk = {name: standard_name(name) for name in (*updates, *bare.values())}
    else:
        on_disk = names
    odd = [name for name in (*updates, *bare.values()) if name not in on_disk]
    if odd:
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS_FILE}: the {family.title} that is described beside it, or "
            f"by {base}, has no {listed(odd)}"
        )
    return Adapter(
        folder=folder,
        config=config,
        base=base,
        updates={on_disk[name]: update for name, update in updates.items()},
        replaced={on_disk[bare[name]]: info for name, info in rest.items()},
        family=family,
        places=None if names is None else frozenset(names.values()),
    )


def _updates(
    config: dict[str, Any], path: Path, infos: dict[str, TensorInfo]
) -> Iterator[tuple[str, Update]]:
    """Updates by the name of their weight in memory."""
    for name, down in infos.items():
        if not (name.startswith(_PREFIX) and name.endswith(_DOWN)):
            continue
        module = name.removesuffix(_DOWN)
        up = infos.get(module + _UP)
        magnitude = infos.get(module + _MAGNITUDE)
        dora = config.get("use_dora") is True
        if up is None or (magnitude is not None) != dora or not down.shape or len(up.shape) < 2:
            raise UserError(f"{down.file}: {name} lacks its {_UP[1:]} or, with DoRA, its magnitude")
        module = module.removeprefix(_PREFIX)
        rank = _number(config, path, "r", "rank_pattern", module)
        if rank != down.shape[0]:
            raise UserError(f"{down.file}: {name} has rank {down.shape[0]}, {path} says {rank:g}")
        alpha = _number(config, path, "lora_alpha", "alpha_pattern", module)
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank)
        pissa = config.get("init_lora_weights") == _PISSA
        yield f"{module}.weight", Update(down, up, scale, magnitude, pissa)


def _number(config: dict[str, Any], path: Path, key: str, patterns: str, module: str) -> float:
    """A setting of one module: PEFT takes the first pattern that matches the end of its name."""
    special = config.get(patterns) or {}
    if not isinstance(special, dict):
        raise UserError(f"{path}: {patterns} has to be an object of module to number")
    value = config.get(key)
    try:
        value = next(
            (
                found
                for end, found in special.items()
                if regex.match(rf"(.*\.)?({end})$", module, timeout=_PATTERN_SECONDS)
            ),
            value,
        )
    except (regex.error, TimeoutError) as error:
        raise UserError(f"{path}: {patterns} has a key that is no usable regex") from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise UserError(f"{path}: {key} of {module} is {value!a}, it has to be a number above 0")
    return value
