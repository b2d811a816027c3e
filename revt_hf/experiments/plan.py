"""What ``revt run --dry-run`` shows: the steps as a tree, what is done and what is missing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from revt_hf.experiments.graph import Graph, Step
from revt_hf.experiments.ledger import Ledger, Status

_STYLES = {"done": "green", "stale": "yellow", "begun": "cyan", "missing": "dim"}
_WORDS = {"stale": "to do again: its inputs changed", "missing": "to do"}


def plan_tree(title: str, graph: Graph, steps: Sequence[Step], folder: Path) -> Tree:
    """The steps by the folders that they lie in, each with its state; then the sums."""
    ledger = Ledger(graph, folder)
    tree = Tree(Text(f"{title} ({folder})"))
    branches: dict[str, Tree] = {"": tree}
    counts: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for step in steps:
        status = ledger.status(step.id)
        counts[status.state] += 1
        parent, _, name = step.id.rpartition("/")
        text = Text.assemble(name, "  ", (_word(status), _STYLES[status.state]))
        _branch(branches, parent).add(text)
        if status.note and status.state != "begun":
            notes[status.note] += 1
    sums = ", ".join(f"{count} {state}" for state, count in counts.items())
    tree.add(Text(f"{len(steps)} steps: {sums}", style="bold"))
    for note, count in notes.items():
        tree.add(Text(f"{count} steps lack their data: {note}", style="red"))
    return tree


def plan_json(graph: Graph, steps: Sequence[Step], folder: Path) -> list[dict[str, Any]]:
    """What ``--json`` writes: each step's state, note, needs, and seconds if it was done."""
    ledger = Ledger(graph, folder)
    rows = []
    for step in steps:
        status = ledger.status(step.id)
        rows.append(
            {
                "step": step.id,
                "state": status.state,
                "note": status.note,
                "needs": list(step.needs),
                "seconds": ledger.seconds(step.id),
            }
        )
    return rows


def _word(status: Status) -> str:
    if status.state == "begun":
        return f"begun: {status.note}"
    return _WORDS.get(status.state, status.state)


def _branch(branches: dict[str, Tree], place: str) -> Tree:
    if place not in branches:
        parent, _, name = place.rpartition("/")
        branches[place] = _branch(branches, parent).add(Text(name))
    return branches[place]
