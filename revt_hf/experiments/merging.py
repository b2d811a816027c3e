"""Carrying out an experiment's merges."""

from pathlib import Path

from revt_hf.experiments.graph import Graph, MergeWork, Step
from revt_hf.experiments.ledger import Ledger
from revt_hf.merging.average import MergeOptions, merge
from revt_hf.merging.merge_spec import MergeSpec


def make_merge(step: Step, graph: Graph, ledger: Ledger, folder: Path) -> Path:
    """Merge what a step names into a folder.

    Raises:
        UserError: the members do not fit together, or cannot be read.
    """
    work = step.work
    if not isinstance(work, MergeWork):
        raise TypeError(f"{step.id} merges nothing")
    base = work.base
    if base is not None and base in graph.steps:
        base = ledger.model_of(base)
    members = tuple(ledger.model_of(member) for member in work.members)
    spec = MergeSpec(members, work.rules, work.head, base)
    return merge(spec, folder, options=MergeOptions(overwrite=True))
