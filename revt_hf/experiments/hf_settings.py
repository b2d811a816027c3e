"""Settings of jobs on the Hub's machines: a typed, validated YAML file."""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from revt_hf.config.yaml_files import Section, read_with_parents, validated
from revt_hf.core.errors import UserError, printable
from revt_hf.experiments.stages import Kind, settings_of

# Where jobs see the results, below the root of a bucket.
RESULTS = "/results"
# Names of variables, and values (tokens of the Hub and of GitHub), that look like secrets.
_SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|(API)?KEY|CREDENTIALS)(_?[0-9]+)?$", re.I
)
_SECRET_VALUE = re.compile(r"\b(hf|gh[opsu]|github_pat)_[A-Za-z0-9]{8}")
# In a line of bash: a variable that is given a value which is no other variable's.
_ASSIGNED = re.compile(r"(?<![\w-])([A-Za-z_]\w*)=[\"']?[^\s$\"']")


_REFUSAL = "looks like a secret, and this is shown and kept: list its name under secrets"


def _lines(value: Any) -> Any:
    return value.splitlines() if isinstance(value, str) else value


_Word = Annotated[str, StringConstraints(pattern=r"^[!-~]+$")]
_Repo = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_Mount = Annotated[str, StringConstraints(pattern=r"^(/[\w.-]+)+$")]
_Time = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,6}[smhd]$")]


class Mounted(Section):
    """A bucket or repository with data, mounted read-only at a folder of every job."""

    type: Literal["bucket", "dataset", "model"]
    source: _Repo
    mount_path: _Mount
    revision: _Word | None = None
    path: _Word | None = None


class StageSettings(Section):
    """The hardware of each job of a stage, and how long it may run; else the common values."""

    flavor: _Word | None = None
    timeout: _Time | None = None


class HfJobsSettings(Section):
    """Settings of all jobs; ``train`` and the like replace hardware and time of one stage.

    Attributes:
        image: a Docker image with bash, Python and revt_hf (or ``setup`` installs it).
        namespace: the user or organisation that runs and pays the jobs; None for your own.
        results: the bucket for results, which exists.
        env: environment variables of the jobs; ``secrets``: names of variables whose values are
            those of this machine when a job is submitted.
        setup: lines of bash to run first.
        at_once: how many jobs may be waiting and running at a time.
        launcher: starts trainings.
    """

    image: _Word
    namespace: Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")] | None = None
    results: _Repo
    flavor: _Word
    timeout: _Time
    volumes: tuple[Mounted, ...] = ()
    env: dict[_Name, str] = Field(default_factory=dict)
    secrets: tuple[_Name, ...] = ()
    setup: Annotated[tuple[str, ...], BeforeValidator(_lines)] = ()
    at_once: Annotated[int, Field(ge=1, le=1000)] | None = None
    launcher: str | None = None
    train: StageSettings = StageSettings()
    merge: StageSettings = StageSettings()
    score: StageSettings = StageSettings()
    report: StageSettings = StageSettings()

    @field_validator("env")
    @classmethod
    def _no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value):
                raise ValueError(f"{name} {_REFUSAL}")
        return env

    @model_validator(mode="after")
    def _consistent(self) -> "HfJobsSettings":
        mounts = [RESULTS, *(volume.mount_path for volume in self.volumes)]
        for number, mount in enumerate(mounts):
            if mount in mounts[:number]:
                raise ValueError(f"two volumes are mounted at {mount}")
            if ".." in mount.split("/") or mount.startswith(f"{RESULTS}/"):
                raise ValueError(f"{mount}: mount it outside {RESULTS}, by a path without ..")
        for line in (*self.setup, self.launcher or ""):
            names = [name for name in _ASSIGNED.findall(line) if _SECRET_NAME.search(name)]
            if names or _SECRET_VALUE.search(line):
                what = names[0] if names else "a word of setup or launcher"
                raise ValueError(f"{what} {_REFUSAL}")
        for kind in get_args(Kind):
            for key, value in self.of(kind):
                if value is None:
                    raise ValueError(f"{kind}.{key} is null: leave it out for the common one")
        for name in self.secrets:
            if name in self.env:
                raise ValueError(f"{name} is both in env and in secrets: keep one")
        launcher = self.launcher
        if launcher is not None and (printable(launcher) != launcher or not shlex.split(launcher)):
            raise ValueError("launcher: one line of words")
        # Of the names that the Hub gives its hardware: a100x8, a10g-largex2.
        many = re.search(r"x([2-9]|[1-9][0-9]+)$", self.of("train").flavor or "")
        if many and launcher is None:
            raise ValueError(
                f"{self.of('train').flavor} has {many[1]} GPUs, but a training would use one: give "
                f"a launcher, such as accelerate launch --num_processes {many[1]}"
            )
        return self

    def of(self, kind: Kind) -> StageSettings:
        """The hardware and time of a kind of stage."""
        return settings_of(kind, self, StageSettings)

    def secret_values(self) -> dict[str, str]:
        """The secrets' values, from this machine's environment.

        Raises:
            UserError: one of them is not set.
        """
        found = {name: os.environ.get(name, "") for name in self.secrets}
        for name, value in found.items():
            if not value:
                raise UserError(
                    f"secrets: the environment variable {name} is not set here: set it, or remove "
                    "it from the settings"
                )
        return found

    @contextmanager
    def environment(self) -> Iterator[None]:
        """See the environment variables of a job, and no others, within this block."""
        ours = dict(os.environ)
        try:
            os.environ.clear()
            os.environ.update(self.env)
            yield
        except UserError as error:
            if "environment variable" in str(error):
                raise UserError(f"{error}: jobs get those under env in their settings") from error
            raise
        finally:
            os.environ.clear()
            os.environ.update(ours)


def load_hf_settings(file: Path | None, launcher: str | None) -> HfJobsSettings:
    if file is None:
        raise UserError(
            "--to hf-jobs needs --settings FILE: image, hardware, bucket; "
            "recipes/hf_jobs has examples"
        )
    values = read_with_parents(file)
    return validated(HfJobsSettings, values | ({"launcher": launcher} if launcher else {}), file)
