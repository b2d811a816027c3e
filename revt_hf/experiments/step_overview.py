"""The steps of an experiment with their states: a tree for people, rows for ``--json``."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from revt_hf.experiments.experiment_folder import ExperimentFolder, Status, Step

_STYLES = {"done": "green", "stale": "yellow", "begun": "cyan", "missing": "dim"}


def step_tree(title: str, steps: Sequence[Step], folder: ExperimentFolder) -> Tree:
    """The steps in the folders of their results, each with its state; then the totals."""
    tree = Tree(Text(f"{title} ({folder.path})"))
    branches: dict[str, Tree] = {"": tree}
    statuses = [folder.status(step.id) for step in steps]
    for step, status in zip(steps, statuses, strict=True):
        parent, _, name = step.id.rpartition("/")
        text = Text.assemble(name, "  ", (_words(status), _STYLES[status.state]))
        _branch(branches, parent).add(text)
    counts = Counter(status.state for status in statuses)
    totals = ", ".join(f"{count} {state}" for state, count in counts.items())
    tree.add(Text(f"{len(steps)} steps: {totals}", style="bold"))
    for note, count in lacking_data(statuses).items():
        tree.add(Text(f"{count} steps lack their data: {note}", style="red"))
    return tree


def step_rows(steps: Sequence[Step], folder: ExperimentFolder) -> list[dict[str, Any]]:
    """The state, note and inputs of each step, and the seconds it took if it is done."""
    rows = []
    for step in steps:
        status, record = folder.status(step.id), folder.record(step)
        rows.append(
            {
                "step": step.id,
                "state": status.state,
                "note": status.note,
                "needs": list(step.inputs),
                "seconds": record.seconds if record else None,
            }
        )
    return rows


def lacking_data(statuses: Sequence[Status]) -> Counter[str]:
    """How many steps lack their data, by the reason."""
    return Counter(one.note for one in statuses if one.note and one.state != "begun")


def _words(status: Status) -> str:
    if status.state == "begun":
        return f"begun: {status.note}"
    return {"stale": "to do again: its inputs changed", "missing": "to do"}.get(
        status.state, status.state
    )


def _branch(branches: dict[str, Tree], path: str) -> Tree:
    if path not in branches:
        parent, _, name = path.rpartition("/")
        branches[path] = _branch(branches, parent).add(Text(name))
    return branches[path]
