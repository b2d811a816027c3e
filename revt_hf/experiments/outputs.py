"""What an experiment leaves for people: one file of results, tables, a page."""

from pathlib import Path

from revt_hf.experiments.ledger import Ledger
from revt_hf.experiments.scoring import evaluations
from revt_hf.experiments.steps import Graph


def write_outputs(graph: Graph, ledger: Ledger, folder: Path, quiet: bool) -> None:
    print(len(evaluations(graph, ledger)))
