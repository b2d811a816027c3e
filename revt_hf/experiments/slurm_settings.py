"""Settings of Slurm jobs: a typed, validated YAML file, overridden by flags."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from revt_hf.config.yaml_files import Section, read_with_parents, validated
from revt_hf.core.errors import UserError, printable
from revt_hf.experiments.stages import Kind, settings_of

# Set by every script.
_OURS = {"--array", "-a", "--dependency", "-d", "--output", "-o", "--open-mode", "--job-name", "-J"}


def _form(pattern: str, example: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value is None or (isinstance(value, str) and re.fullmatch(pattern, value)):
            return value
        raise ValueError(f"write it as {example}, not {value!r}")

    return BeforeValidator(check)


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _lines(value: Any) -> Any:
    return value.splitlines() if isinstance(value, str) else value


_Word = Annotated[str | None, _form(r"[!-~]+", "one word")]
# Without quotes, YAML reads 12:00:00 as a number in base 60.
_Time = Annotated[
    str | None,
    _form(r"([0-9]{1,9}-)?[0-9]{1,9}(:[0-9]{1,2}){0,2}", '"12:00:00" or "2-00:00:00", in quotes'),
]
# BeforeValidators run from right to left.
_Gpus = Annotated[
    str | None,
    _form(r"([A-Za-z][A-Za-z0-9_.-]*:)?[0-9]{1,6}", "2 or a100:2"),
    BeforeValidator(_number_as_text),
]
_Memory = Annotated[str | None, _form(r"[0-9]{1,12}[KMGT]", "32G")]
_Lines = Annotated[tuple[str, ...], BeforeValidator(_lines)]


class StageSettings(Section):
    """Resources of each task of a stage; anything not given is left to the cluster.

    ``gpus`` and ``memory`` are per node; ``at_once`` limits how many tasks run at a time.
    """

    partition: _Word = None
    account: _Word = None
    time: _Time = None
    gpus: _Gpus = None
    cpus: Annotated[int, Field(ge=1, le=10**6)] | None = None
    memory: _Memory = None
    at_once: Annotated[int, Field(ge=1, le=10**6)] | None = None
    requeue: bool = True
    setup: _Lines = ()
    extra: _Lines = ()

    @field_validator("extra")
    @classmethod
    def _options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            option = re.split(r"[=\s]", line, maxsplit=1)[0]
            if not option.startswith("-") or printable(line) != line:
                raise ValueError(f"'{line}' is no option of sbatch, such as --qos=low")
            if option in _OURS:
                raise ValueError(f"revt submit itself sets {option}: remove it")
        return lines

    @property
    def gpu_count(self) -> int:
        return int(self.gpus.rpartition(":")[2]) if self.gpus else 0

    def options(self) -> list[str]:
        gres = f"gpu:{self.gpus}" if self.gpu_count else None
        table: dict[str, Any] = {
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
        }
        table |= {"gres": gres, "cpus-per-task": self.cpus, "mem": self.memory}
        given = [f"--{name}={value}" for name, value in table.items() if value is not None]
        return [*given, "--requeue" if self.requeue else "--no-requeue", *self.extra]


class SlurmSettings(StageSettings):
    """Settings of all stages, which those of one stage replace; ``launcher`` starts trainings."""

    launcher: str | None = None
    train: StageSettings = StageSettings()
    merge: StageSettings = StageSettings()
    score: StageSettings = StageSettings()
    report: StageSettings = StageSettings()

    @field_validator("launcher")
    @classmethod
    def _words(cls, launcher: str | None) -> str | None:
        shlex.split(launcher or "")
        if launcher is not None and printable(launcher) != launcher:
            raise ValueError("a launcher is one line")
        return launcher

    def of(self, kind: Kind) -> StageSettings:
        """The settings of a kind of stage: its own values, else the common ones."""
        return settings_of(kind, self, StageSettings)


def load_settings(file: Path | None, flags: Mapping[str, Any]) -> SlurmSettings:
    values: dict[str, Any] = {}
    if file is not None:
        values = read_with_parents(file)
        validated(SlurmSettings, values, file)
    values |= {name: value for name, value in flags.items() if value is not None}
    settings = validated(SlurmSettings, values, "options")
    count = settings.of("train").gpu_count
    if count > 1 and not settings.launcher:
        raise UserError(
            f"{count} GPUs for each training, but it would use one: give a launcher, such as "
            f"--launcher 'accelerate launch --num_processes {count}'"
        )
    return settings
