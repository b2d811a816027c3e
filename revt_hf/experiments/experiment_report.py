"""The tables and the report of an experiment."""

from pathlib import Path

from revt_hf.core.outputs import write_text
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.result import read_results
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.graph import Graph
from revt_hf.experiments.score_steps import Network, read_result, result_file
from revt_hf.results.formats import TableFormat, formatted, print_layouts
from revt_hf.results.page import write_page
from revt_hf.results.report import ModelKind, ReportModel, build_report
from revt_hf.results.tables import TableOptions, build_tables

_SUFFIXES = {
    TableFormat.markdown: ".md",
    TableFormat.latex: ".tex",
    TableFormat.csv: ".csv",
    TableFormat.html: ".html",
}
_PAGE_KINDS: dict[str, ModelKind] = {
    "init": "init",
    "member": "member",
    "merge": "merge",
    "recalibrated": "merge",
}


def write_outputs(graph: Graph, folder: ExperimentFolder, name: str, quiet: bool) -> list[Path]:
    """Write ``tables/NAME.*`` and ``reports/NAME.html`` from the networks that have been scored."""
    found = [
        result_file(folder, protocol, network.id)
        for protocol in graph.protocols
        for network in graph.networks.values()
        if _is_scored(folder, protocol, network)
    ]
    if not found:
        return []
    tables = build_tables(read_results(found), TableOptions(cost=graph.experiment.evaluate.cost))
    written = []
    for chosen, suffix in _SUFFIXES.items():
        path = folder.path / "tables" / f"{name}{suffix}"
        write_text(path, formatted(tables, chosen))
        written.append(path)
    if not quiet:
        print_layouts(tables)
    if graph.experiment.report:
        page = folder.path / "reports" / f"{name}.html"
        if _write_report(graph, folder, page, formatted(tables, TableFormat.terminal)):
            written.append(page)
    return written


def _is_scored(folder: ExperimentFolder, protocol: str, network: Network) -> bool:
    is_choice = network.kind == "selection"
    return folder.done(network.id if is_choice else f"results/{protocol}/{network.id}")


def _write_report(graph: Graph, folder: ExperimentFolder, page: Path, table: str) -> bool:
    """Write a page on the first merge, its members and their init; False if there is no merge."""
    name, protocol = next(iter(graph.protocols.items()))
    networks = [one for one in _first_merge(graph) if _is_scored(folder, name, one)]
    kinds = {_PAGE_KINDS[network.kind] for network in networks}
    if not {"member", "merge"} <= kinds or len({split.is_source for split in graph.splits}) < 2:
        return False
    titles = [n.group + (f", head {n.head}" if n.head else "") for n in networks]
    models = [
        ReportModel(
            title,
            _PAGE_KINDS[n.kind],
            folder.model_of(n.parts[0]),
            "" if n.seed is None else f"seed {n.seed}",
        )
        for title, n in zip(titles, networks, strict=True)
    ]
    results = [
        read_result(result_file(folder, name, n.id)).model_copy(update={"model": title})
        for title, n in zip(titles, networks, strict=True)
    ]
    report = build_report(
        graph.experiment.title,
        graph.experiment.intro or "Members and their merges, and how they do on unseen domains.",
        models,
        [(split, load_spec(split.spec, split.split)) for split in graph.splits],
        protocol,
        results,
        {"All seeds, heads and ensembles": table},
    )
    write_page(report, page)
    return True


def _first_merge(graph: Graph) -> list[Network]:
    """The first merge of the first seed with every head, its inputs, and what they start from."""
    shown = [network for network in graph.networks.values() if network.id in graph.steps]
    first = next((network for network in shown if network.kind == "merge"), None)
    if first is None:
        return []
    members = graph.steps[first.id].inputs
    heads = [n.id for n in shown if n.group == first.group and graph.steps[n.id].inputs == members]
    return [
        network
        for network in shown
        if network.kind == "init"
        or network.id in (*members, *heads)
        or (network.kind == "recalibrated" and graph.steps[network.id].inputs[0] in heads)
    ]
