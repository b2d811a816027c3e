"""What an experiment leaves for people: its table in four formats, and a page."""

from pathlib import Path

from revt_hf.core.outputs import write_text
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.evaluate import load_for_evaluation
from revt_hf.evaluation.result import read_results
from revt_hf.experiments.graph import Graph, Network
from revt_hf.experiments.ledger import Ledger
from revt_hf.experiments.score_steps import evaluations, read_result
from revt_hf.results.build import Entry, assemble
from revt_hf.results.formats import TableFormat, formatted, print_tables
from revt_hf.results.matrix import build_tables
from revt_hf.results.page import Model, write_page
from revt_hf.results.report import Kind
from revt_hf.results.results import scores_of
from revt_hf.results.rows import TableOptions

_SUFFIXES = {
    TableFormat.markdown: ".md",
    TableFormat.latex: ".tex",
    TableFormat.csv: ".csv",
    TableFormat.html: ".html",
}
_PAGE_KINDS: dict[str, Kind] = {
    "init": "init",
    "member": "member",
    "merge": "revt",
    "recalibrated": "revt",
}


def write_outputs(graph: Graph, ledger: Ledger, folder: Path, name: str, quiet: bool) -> list[Path]:
    """Write ``tables/NAME.*`` and ``reports/NAME.html`` of what has been scored.

    Args:
        graph: of the experiment; networks of others in the folder stay out.
        ledger: of the folder.
        folder: of the experiment.
        name: of the files.
        quiet: do not print the table.

    Returns:
        What was written; nothing where nothing has been scored.

    Raises:
        UserError: an evaluation cannot be read, or an image for the page.
    """
    found = evaluations(graph, ledger)
    if not found:
        return []
    tables = build_tables(read_results(found), TableOptions(cost=graph.experiment.evaluate.cost))
    written = []
    for chosen, suffix in _SUFFIXES.items():
        path = folder / "tables" / f"{name}{suffix}"
        write_text(path, formatted(tables, chosen))
        written.append(path)
    if not quiet:
        print_tables(tables)
    if graph.experiment.report:
        text = formatted(tables, TableFormat.terminal)
        page = folder / "reports" / f"{name}.html"
        if _write_report(graph, ledger, page, text):
            written.append(page)
    return written


def _write_report(graph: Graph, ledger: Ledger, page: Path, table: str) -> bool:
    """A page of the first merge, its members and starts; False where there is none to show."""
    protocol, evaluation = next(iter(graph.protocols.items()))
    networks = [
        network
        for network in _first_merge(graph)
        if ledger.done(f"results/{protocol}/{network.id}")
    ]
    kinds = {_PAGE_KINDS[network.kind] for network in networks}
    targets = [split for split in graph.splits if not split.is_source]
    sources = [split for split in graph.splits if split.is_source]
    if not {"member", "revt"} <= kinds or not targets or not sources:
        return False
    entries = [
        Entry(Model(_name(n), _PAGE_KINDS[n.kind], _note(n)), Path(ledger.model_of(n.parts[0])))
        for n in networks
    ]
    results = [
        read_result(ledger.evaluation_of(protocol, network.id)).model_copy(
            update={"model": _name(network)}
        )
        for network in networks
    ]
    report = assemble(
        graph.experiment.title,
        graph.experiment.intro or "Members and their merges, and how they do on unseen domains.",
        entries,
        {entry.model.name: load_for_evaluation(entry.folder) for entry in entries},
        [(split, load_spec(split.spec, split.split)) for split in graph.splits],
        evaluation,
        scores_of(results),
        {"All seeds, heads and ensembles": table},
    )
    write_page(report, page)
    return True


def _first_merge(graph: Graph) -> list[Network]:
    """The first merge of the first seed with every head, all that went into it, and its starts."""
    shown = [network for network in graph.networks.values() if network.id in graph.steps]
    first = next((network for network in shown if network.kind == "merge"), None)
    if first is None:
        return []
    members = graph.steps[first.id].needs
    heads = [n.id for n in shown if n.group == first.group and graph.steps[n.id].needs == members]
    return [
        network
        for network in shown
        if network.kind == "init"
        or network.id in (*members, *heads)
        or (network.kind == "recalibrated" and graph.steps[network.id].needs[0] in heads)
    ]


def _name(network: Network) -> str:
    head = f", head {network.head}" if network.head else ""
    return f"{network.group}{head}"


def _note(network: Network) -> str:
    return "" if network.seed is None else f"seed {network.seed}"
