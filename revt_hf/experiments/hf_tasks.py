"""The steps of an experiment as jobs on the Hub's machines: what each is sent, and needs."""

import logging
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from revt_hf.checkpoints.download import is_hub_id
from revt_hf.config.yaml_files import read_with_parents
from revt_hf.core.errors import UserError, printable
from revt_hf.experiments.experiment_folder import Step, hash_of
from revt_hf.experiments.experiment_recipe import experiment_values, load_experiment
from revt_hf.experiments.graph import Graph, build_graph
from revt_hf.experiments.hf_settings import RESULTS, HfJobsSettings
from revt_hf.experiments.stages import Kind, stages, word_of
from revt_hf.experiments.training_processes import REVT

# An argument of a program on Linux has at most 128 KiB.
_LARGEST = 120_000
_END = "END-OF-RECIPE"
_log = logging.getLogger(__name__)


@dataclass
class HfTask:
    """A job: the steps it does, the tasks it waits for, and what is known of it at the Hub.

    ``digest`` is a hash of all that determines its results, ``attempt`` a random word by which the
    job is found; ``state`` is the Hub's word for the job's stage, or ``waiting`` or ``blocked``.
    """

    name: str
    kind: Kind
    steps: tuple[str, ...]
    arguments: list[str]
    digest: str
    after: list[str] = field(default_factory=list)
    attempt: str | None = None
    job: str | None = None
    url: str | None = None
    state: str = "waiting"

    @property
    def title(self) -> str:
        first, *others = self.steps or ("tables and report",)
        return f"{self.name} ({first}{f' and {len(others)} more' if others else ''})"

    def to_json(self) -> dict[str, Any]:
        """Its entry in ``--json``."""
        keys = ("name", "steps", "after", "job", "url", "state")
        return {key: getattr(self, key) for key in keys}


@dataclass
class HfPlan:
    """All jobs of an experiment, and the bash script that they share.

    ``folder`` is a hash of where the results are: bucket and path.
    """

    title: str
    folder: str
    script: str
    tasks: list[HfTask]
    settings: HfJobsSettings

    def request(self, task: HfTask) -> dict[str, Any]:
        """The arguments of ``HfApi.run_job``, without the secrets' values."""
        settings, own = self.settings, self.settings.of(task.kind)
        results = {"type": "bucket", "source": settings.results, "mount_path": RESULTS}
        data = [one.model_dump(exclude_none=True) | {"read_only": True} for one in settings.volumes]
        return {
            "image": settings.image,
            "command": ["bash", "-c", self.script, "revt", *task.arguments],
            "env": dict(settings.env),
            "flavor": own.flavor,
            "timeout": own.timeout,
            "volumes": [results | {"read_only": False}, *data],
            "labels": {"name": f"{word_of(self.title)}-{task.name}", "revt-results": self.folder},
        }

    def as_text(self) -> str:
        """What would be sent, as YAML: the script once, then each job."""
        parts = ["# The script of all jobs:", self.script]
        for task in self.tasks:
            request = self.request(task)
            request["command"][2] = "(the script above)"
            if self.settings.secrets:
                request["secrets"] = list(self.settings.secrets)
            waits = f", after {', '.join(task.after)}" if task.after else ""
            text = yaml.safe_dump(request, sort_keys=False, default_flow_style=None, width=100)
            parts += [f"# {printable(task.title)}{waits}", text]
        whose = self.settings.namespace or "your own account"
        return "\n".join([*parts, f"# {len(self.tasks)} jobs, run and paid by {whose}.", ""])


def plan_jobs(
    path: str | Path, output: Path, overrides: Sequence[str], settings: HfJobsSettings
) -> HfPlan:
    """The jobs of an experiment; nothing is sent or written.

    Args:
        path: the experiment (YAML).
        output: its folder, relative; in the bucket it has the same path.
        overrides: ``a.b=c`` strings.
        settings: see :class:`HfJobsSettings`.

    Raises:
        UserError: the experiment or a name cannot be used.
    """
    if output.is_absolute() or ".." in output.parts or not output.parts:
        raise UserError(
            f"{output}: in the bucket the folder has the same path, so give a relative one below "
            "this folder, such as runs/paper"
        )
    for name in (str(output), Path(path).name):
        if printable(name) != name:
            raise UserError(f"{name}: a job's folder has no control characters in its name")
    with settings.environment():
        experiment = load_experiment(path, overrides)
        graph = build_graph(experiment)
    _remark_on_paths(graph, settings)
    files = _files(Path(path), overrides)
    folder = hash_of([settings.results, str(output)])[:40]
    plan = HfPlan(experiment.title, folder, _script(files, output, settings), [], settings)
    if len(plan.script) > _LARGEST:
        raise UserError(
            f"{path}: with its recipes it is too long for a job ({len(plan.script)} characters of "
            f"{_LARGEST}): split the experiment"
        )
    plan.tasks = _tasks(graph, settings, [folder, files])
    return plan


def _tasks(graph: Graph, settings: HfJobsSettings, whole: list[Any]) -> list[HfTask]:
    """The jobs in the order of work; ``whole`` is all that determines the tables and the report."""
    made: list[HfTask] = []
    owner: dict[str, str] = {}
    # What is done in the bucket is not known here; a job that finds its steps done ends at once.
    for stage in stages(graph, lambda _: False):
        launcher = settings.launcher if stage.kind == "train" else None
        for number, steps in enumerate(stage.tasks):
            words = [word for step in steps for word in ("--only", step)]
            arguments = ["--no-needs", *words] if steps else ["--report-only"]
            arguments += ["--launcher", launcher] if launcher else []
            own = graph.chosen(steps, needs=False) if steps else []
            digest = _digest(graph, steps, whole[0]) if steps else hash_of(whole)
            name = stage.name if len(stage.tasks) == 1 else f"{stage.name}-{number}"
            before = {owner[one] for step in own for one in _made_by_jobs(graph, step, owner)}
            after = [one.name for one in made if one.name in before or not steps]
            made.append(HfTask(name, stage.kind, steps, arguments, digest, after))
            owner |= {step.id: name for step in own}
    return made


def _made_by_jobs(graph: Graph, step: Step, owner: dict[str, str]) -> set[str]:
    """The inputs of a step that jobs before it make; what needs no work passes on its inputs."""
    found: set[str] = set()
    for one in step.inputs:
        need = graph.steps[one]
        found |= {one} & owner.keys() if need.stage else _made_by_jobs(graph, need, owner)
    return found


def _digest(graph: Graph, steps: Sequence[str], folder: str) -> str:
    """A hash of all that determines the results of steps, as far as this machine knows it."""
    made = {
        step.id: [step.settings(), step.inputs, step.checkpoint(), getattr(step, "path", None)]
        for step in graph.chosen(steps, needs=True)
    }
    return hash_of([folder, made])


def _files(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The experiment and its recipes without ``extends``, by names beside each other."""
    values = experiment_values(path, overrides)
    recipes: dict[str, str] = {}
    sections = [*values.get("members", {}).values(), values.get("evaluate")]
    for section in sections:
        if isinstance(section, dict) and section.get("recipe") is not None:
            name = recipes.setdefault(section["recipe"], f"recipe-{len(recipes) + 1}.yaml")
            section["recipe"] = name
    files = {name: read_with_parents(Path(recipe)) for recipe, name in recipes.items()}
    # The outputs are named after the experiment's file.
    stem = re.sub(r"^recipe-", "experiment-", path.stem)
    return {f"{stem}.yaml": values, **files}


def _script(files: dict[str, Any], output: Path, settings: HfJobsSettings) -> str:
    lines = ["set -e", "recipes=$(mktemp -d)"]
    for name, values in files.items():
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        if f"\n{_END}\n" in text:
            raise UserError(f"{name}: a line of a recipe cannot be {_END}")
        lines += [f"cat > \"$recipes\"/{shlex.quote(name)} <<'{_END}'", f"{text.rstrip()}\n{_END}"]
    folder = shlex.quote(str(PurePosixPath(RESULTS, *output.parts)))
    first = shlex.quote(next(iter(files)))
    command = f'exec python {shlex.join(REVT)} run "$recipes"/{first} --output {folder} "$@"'
    return "\n".join([*lines, *settings.setup, "cd /", command, ""])


def _remark_on_paths(graph: Graph, settings: HfJobsSettings) -> None:
    """Not an error: the image may have what no volume has."""
    mounts = [volume.mount_path for volume in settings.volumes]
    recipes = [one.recipe for one in graph.steps.values() if hasattr(one, "recipe")]
    recipes += [graph.recipe] if graph.recipe else []
    read: Iterable[str | None] = [path for recipe in recipes for path in recipe.inputs]
    given = [getattr(step, "path", None) for step in graph.steps.values() if not step.inputs]
    models = {*given, *(recipe.model.init for recipe in recipes)}
    for path in dict.fromkeys([*read, *given]):
        if path is None or (path in models and is_hub_id(path) and not Path(path).exists()):
            continue
        where = PurePosixPath("/", path)
        if not any(where.is_relative_to(mount) for mount in mounts):
            _log.info("%s is on no volume: the image must have it, as %s", path, where)
