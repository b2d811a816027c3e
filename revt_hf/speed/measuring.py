"""What the benchmarks share: device, models and images, timed runs, failures, tables."""

import platform
import re
import timeit
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from revt_hf import __version__
from revt_hf.checkpoints.architecture import SIZES
from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.config.network import Model as ModelSection
from revt_hf.core.errors import UserError
from revt_hf.data.label_space import IGNORE_INDEX, NUM_CLASSES
from revt_hf.evaluation.cost import device_name
from revt_hf.models.load import build_model, load_model
from revt_hf.models.networks import family_of_model
from revt_hf.results.layout import DASH, Cell, Heading, TableLayout

OUT_OF_MEMORY = "out of memory"
RANDOM_WEIGHTS = "b0 to b5 have random weights: speed and memory do not depend on their values"
# The encoder's first stage sees an eighth of a quarter of the image as one key.
SMALLEST = 32
_PATCH = 32
_GREY, _CONTRAST = 128.0, 48.0
_PROCESSORS = Path("/proc/cpuinfo")
_LONGEST = 160

T = TypeVar("T")
Model: TypeAlias = PreTrainedModel


@dataclass(frozen=True)
class BenchmarkResult:
    """A finished benchmark; ``kind`` is ``inference`` or ``training``, rows are dataclasses."""

    kind: str
    machine: Mapping[str, Any]
    protocol: Mapping[str, Any]
    rows: Sequence[Any]
    tables: Sequence[TableLayout]
    loaders: Sequence[Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``revt benchmark --json`` writes."""
        values = {"kind": self.kind, "machine": self.machine, "protocol": self.protocol}
        lists = {"rows": self.rows, "loaders": self.loaders}
        return values | {k: list(map(asdict, v)) for k, v in lists.items() if v is not None}


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What speed depends on besides the model: device, threads, processor, versions, time (UTC)."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "revt_hf": __version__,
        "cuda": torch.version.cuda,
    }
    processors = _PROCESSORS.read_text() if _PROCESSORS.exists() else ""
    processor = re.search(r"^model name\s*: *(.*)", processors, re.MULTILINE)
    return {
        "device": device_name(device),
        "type": device.type,
        "threads": torch.get_num_threads(),
        "processor": processor[1] if processor else platform.processor() or "unknown processor",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version for name, version in versions.items() if version is not None},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def chosen_device(name: str | None) -> torch.device:
    """The device of that name; None is the first GPU if there is one, else the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = name or ("cuda" if count else "cpu")
    found = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", name)
    if not found:
        raise UserError(f"--device {name}: use cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device(name)
    if int(found[1] or 0) >= count:
        raise UserError(f"--device {name}: torch finds {count} CUDA devices on this machine")
    return torch.device("cuda", int(found[1] or 0))


def model_makers(
    models: Mapping[str, str], sizes: Sequence[str], random: Callable[[str], Model]
) -> dict[str, Callable[[], Model]]:
    """What makes each model, by name; saved models are loaded now, to fail early."""
    for size in sizes:
        if size not in SIZES:
            raise UserError(f"--size {size}: use {', '.join(SIZES)}")
    makers = {size: partial(random, size) for size in sizes}
    loaded = {name: load_model(path) for name, path in models.items()}
    for name, model in loaded.items():
        check_segformer(name, model)
    return {**makers, **{name: model.eval for name, model in loaded.items()}}


def check_segformer(name: str, model: Model) -> None:
    """Refuse other networks: what is compared are ways of running a SegFormer."""
    family = family_of_model(model)
    if family is not SEGFORMER:
        raise UserError(
            f"{name} is a {family.title}, and revt benchmark compares ways of running a SegFormer: "
            "revt evaluate --cost measures other networks"
        )


def random_network(size: str) -> Model:
    """A B0 to B5 in eval mode with random weights and activations scaled like a trained one's."""
    model = build_model(ModelSection.model_validate({"size": size, "drop_path": 0}), seed=0)
    with torch.no_grad():
        head: Any = model.get_submodule("decode_head")
        head.batch_norm.momentum = 1.0
        spread = model.train().forward(pixel_values=smooth_pixels(2, 128, 256)).logits.std()
        head.classifier.weight.mul_(2 / spread)
    return model.eval()


def smooth_pixels(batch: int, height: int, width: int) -> torch.Tensor:
    """Smooth patches, (N, 3, H, W) float32, scaled like normalised images."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(batch, 3, *_patches(height, width), generator=generator)
    return functional.interpolate(patches, size=(height, width), mode="bicubic")


def smooth_image(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth patches of colour as an image, (H, W, 3) uint8."""
    pixels = smooth_pixels(1, height, width)[0] * _CONTRAST + _GREY
    return pixels.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def patch_labels(batch: int, height: int, width: int) -> torch.Tensor:
    """Labels in patches, (N, H, W) int64, 0..18; those at the top are ignored (255)."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, NUM_CLASSES, (batch, *_patches(height, width)), generator=generator)
    coarse[:, 0] = IGNORE_INDEX
    labels = coarse.repeat_interleave(_PATCH, 1).repeat_interleave(_PATCH, 2)
    return labels[:, :height, :width].contiguous()


def _patches(height: int, width: int) -> tuple[int, int]:
    return -(-height // _PATCH), -(-width // _PATCH)


def progress_bar(total: int, unit: str, quiet: bool) -> Any:
    """A bar that each finished row updates."""
    return tqdm(total=total, unit=unit, desc="benchmark", disable=quiet)


def attempt(work: Callable[[], T], compiles: bool = False) -> tuple[T | None, str | None]:
    """The result and None, or None and why this machine cannot do it.

    If ``work`` compiles, any error is such a reason; otherwise only a lack of memory is.
    """
    try:
        return work(), None
    except Exception as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if full or "can't allocate memory" in str(error):
            reason = OUT_OF_MEMORY
        elif compiles:
            # The first line of dynamo's message only names the backend.
            lines = [line.strip() for line in str(error).splitlines()]
            telling = [line for line in lines if line and not line.endswith("raised:")]
            first = telling[0] if telling else type(error).__name__
            reason = f"torch.compile failed: {first[:_LONGEST]}"
        else:
            raise
    # The frames of the error have released their tensors only now.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, reason


def run_seconds(call: Callable[[], Any], warm_up: int, runs: int) -> list[float]:
    """Seconds of each run after a warm-up; a call waits for its own work on a GPU."""
    return timeit.repeat(call, number=1, repeat=warm_up + runs)[warm_up:]


def ratio(rate: float | None, reference: float | None) -> float | None:
    """One rate over another; None if one was not measured."""
    return rate / reference if rate and reference else None


def column(heading: str, scale: float = 1.0, decimals: int | None = None) -> Any:
    """A field of a row that is a column of the table; numbers have three digits by default."""
    return field(default=None, metadata={"column": (heading, scale, decimals)})


def table(
    caption: str,
    rows: Sequence[Any],
    notes: Sequence[str],
    machine: Mapping[str, Any],
    left_out: Collection[str] = (),
) -> TableLayout:
    """Rows of a dataclass as text: each :func:`column` but those ``left_out``; failures as notes.

    The first two columns name a row.
    """
    columns = {
        one.name: one.metadata["column"]
        for one in fields(rows[0])
        if one.metadata and one.name not in left_out
    }
    headings = [
        Heading(heading, "cost" if number > 1 else "name")
        for number, (heading, *_) in enumerate(columns.values())
    ]
    cells = [
        tuple(Cell(_text(getattr(row, name), *how)) for name, (_, *how) in columns.items())
        for row in rows
    ]
    failures = [
        f"{names[0].text} {names[1].text}: {row.failure}"
        for names, row in zip(cells, rows, strict=True)
        if row.failure is not None
    ]
    versions = [f"{name} {version}" for name, version in machine["versions"].items()]
    facts = [machine["device"], machine["processor"], machine["system"], *versions, machine["date"]]
    return TableLayout(
        caption, tuple(headings), tuple(cells), (*notes, ", ".join(facts), *failures)
    )


def _text(value: Any, scale: float, decimals: int | None) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    value *= scale
    if decimals is None:
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:.{decimals}f}"
