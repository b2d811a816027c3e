"""The machine at hand, as results name it."""

import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from revt_hf import __version__
from revt_hf.core.errors import UserError
from revt_hf.evaluation.cost import device_name

_PROCESSORS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """What rates depend on besides the network.

    Attributes:
        device: the GPU's name, or ``cpu`` and its threads.
        type: ``cuda`` or ``cpu``.
        threads: of torch on the CPU.
        processor: the CPU's name.
        system: the operating system and architecture.
        versions: of ``python``, ``torch``, ``transformers``, ``revt_hf``, and the ``cuda`` that
            torch was built for, where it was.
        date: when the measurement began, UTC, ISO 8601.
    """

    device: str
    type: str
    threads: int
    processor: str
    system: str
    versions: dict[str, str]
    date: str

    @classmethod
    def of(cls, device: torch.device) -> "Machine":
        """This machine, measured on a device of it."""
        versions = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "revt_hf": __version__,
        }
        if torch.version.cuda is not None:
            versions["cuda"] = torch.version.cuda
        return cls(
            device=device_name(device),
            type=device.type,
            threads=torch.get_num_threads(),
            processor=_processor(),
            system=f"{platform.system()} {platform.machine()}",
            versions=versions,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def text(self) -> str:
        """All of it in one line."""
        versions = (f"{name} {version}" for name, version in self.versions.items())
        return ", ".join([self.device, self.processor, self.system, *versions, self.date])


def chosen_device(name: str | None) -> torch.device:
    """The device of that name; without one the first GPU if there is one, else the CPU.

    Raises:
        UserError: it is not ``cpu``, ``cuda`` or ``cuda:N``, or this machine does not have it.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda:0" if count else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdigit() or name == "cuda")):
        raise UserError(f"--device {name}: use cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= count:
        raise UserError(f"--device {name}: torch finds {count} CUDA devices on this machine")
    return torch.device("cuda:0" if name == "cuda" else name)


def _processor() -> str:
    if _PROCESSORS.exists():
        for line in _PROCESSORS.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown processor"
