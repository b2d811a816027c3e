"""Publish an experiment: its members, what was made of them, the table, and their collection."""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from huggingface_hub import DatasetCardData, HfApi

from revt_hf import __version__
from revt_hf.checkpoints.tensors import WEIGHTS_FILE
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, file_sha256, write_text
from revt_hf.evaluation.result import Result, write_results
from revt_hf.experiments.run_models import (
    RunModel,
    chosen_models,
    hub_origins,
    results_of_model,
    run_models,
    run_results,
)
from revt_hf.hub.cards import render_card
from revt_hf.hub.commit import (
    CARD_FILE,
    HUB_URL,
    MARKER,
    Kind,
    Published,
    PushOptions,
    Related,
    check_repo_id,
    check_repository,
    pushing,
    require_token,
)
from revt_hf.hub.evaluations import check_dataset_ids
from revt_hf.hub.facts import ModelCardFacts
from revt_hf.hub.published import published_result
from revt_hf.hub.push import RESULTS_FILE, TABLE_FILE, assemble, check_pages, collect, send
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.markdown import yaml_text
from revt_hf.results.tables import TableOptions, build_tables

_log = logging.getLogger(__name__)
_BEFORE = "nothing was sent: run the same command again"


@dataclass(frozen=True)
class Repository:
    """What is published in one place: where it comes from, its files and their bytes."""

    repo_id: str
    kind: Kind
    content: str
    files: int = 0
    size: int = 0


@dataclass(frozen=True)
class _Work:
    """A repository, and what writes its content into an empty folder."""

    repository: Repository
    assemble: Callable[[Path], ModelCardFacts | None]

    def written(self, target: Path) -> tuple[Repository, ModelCardFacts | None]:
        target.mkdir()
        facts = self.assemble(target)
        sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
        return replace(self.repository, files=len(sizes), size=sum(sizes)), facts


def push_experiment(
    run: Path,
    prefix: str,
    options: PushOptions,
    results: Path | None = None,
    only: Sequence[str] = (),
    only_print: bool = False,
) -> tuple[list[Repository], list[str]]:
    """Publish the finished models of a run, each as ``OWNER/PREFIX-NAME``, and their table.

    Everything is checked before anything is sent. Members come first, then merges, the table and
    the collection; a second run sends what is missing or has changed.

    Args:
        run: folder of ``revt run``.
        prefix: ``OWNER/PREFIX``, with which the repositories' names begin.
        options: of every push. ``base_models`` are those of the members, or members themselves;
            the collection is by default called ``PREFIX``.
        results: result file or folder; by default those of the run.
        only: ids of models with ``*``, or folders of them; empty for all.
        only_print: check everything, and send nothing.

    Returns:
        The repositories, and their addresses; without these if nothing was sent.

    Raises:
        UserError: as :func:`revt_hf.hub.push.push`; or the run has no such models, or a merge is
            not of the members that the run has now.
    """
    check_repo_id(prefix, "model")
    sends = not only_print and options.dry_run is None
    if sends:
        require_token()
    models = run_models(run, prefix)
    chosen = chosen_models(models, only, run)
    for name in options.base_models:
        if not any(name in hub_origins(one, models, [name]) for one in chosen):
            raise UserError(f"--base-model {name}: no model to push was made from it: leave it out")
    measured = run_results(run, results)
    options = replace(options, collection=options.collection or prefix.partition("/")[2])
    table = f"{prefix}-results" if measured else None
    linked = chosen
    if sends:
        with pushing(prefix, HfApi(), options.quiet, _BEFORE):
            linked = _checked_on_hub(models, chosen, table, options)
            check_pages(options, prefix)
    _tell_others(chosen, linked, options)
    works = [_model_work(one, linked, table, measured, options) for one in chosen]
    if table:
        place = Repository(table, "dataset", "table")
        works.append(_Work(place, partial(_write_table, table, linked, measured)))
    repositories = _assembled(works, run, options)
    return repositories, _sent(works, prefix, options) if sends else []


def _checked_on_hub(
    models: Sequence[RunModel], chosen: Sequence[RunModel], table: str | None, options: PushOptions
) -> list[RunModel]:
    """The models that cards may name: those that are sent, and those that are on the Hub."""
    hub = HfApi()
    there = set()
    for one in models:
        private = options.private and one in chosen
        if check_repository(hub, one.repo_id, "model", private):
            there.add(one.id)
    if table:
        check_repository(hub, table, "dataset", options.private)
    # Of two models with one place, nothing says which of them is there.
    places = Counter(one.repo_id.lower() for one in models)
    return [
        one
        for one in models
        if one in chosen or (one.id in there and places[one.repo_id.lower()] == 1)
    ]


def _tell_others(
    chosen: Sequence[RunModel], linked: Sequence[RunModel], options: PushOptions
) -> None:
    """Name the members of merges that cards cannot link."""
    known = {one.sha256 for one in linked}
    members = [member for one in chosen if one.merge for member in one.merge.members]
    others = [
        one.path
        for one in members
        if one.sha256 not in known
        and one.hub is None
        and one.path.partition("@")[0] not in options.base_models
    ]
    if others:
        names = ", ".join(dict.fromkeys(others))
        _log.info("members of merges that are not published, so that no card links them: %s", names)


def _model_work(
    model: RunModel,
    linked: Sequence[RunModel],
    table: str | None,
    measured: Sequence[Result],
    options: PushOptions,
) -> _Work:
    weights = {one.sha256: one for one in linked if one.sha256}
    inputs = [one.sha256 for one in model.merge.inputs] if model.merge else []
    members = {
        digest: Published(weights[digest].repo_id, weights[digest].folder)
        for digest in inputs
        if digest in weights
    }
    merges = tuple(one.repo_id for one in linked if model.sha256 in one.members)
    own = [
        one.model_copy(update={"model": model.repo_id}) for one in results_of_model(model, measured)
    ]
    origins = hub_origins(model, linked, options.base_models)
    options = replace(
        options,
        base_models=origins,
        related=Related(members, merges, table),
    )

    def written(target: Path) -> ModelCardFacts:
        facts = assemble(model.folder, model.repo_id, options, own or None, target)
        # Other cards name these weights by their sha256.
        if file_sha256(model.folder / WEIGHTS_FILE) != model.sha256:
            raise UserError(
                f"{model.folder} changed while the experiment was published: let the run end, and "
                "run the same command again"
            )
        return facts

    return _Work(Repository(model.repo_id, "model", model.id), written)


def _write_table(
    repo_id: str, models: Sequence[RunModel], measured: Sequence[Result], target: Path
) -> None:
    """Write the card of the table, the results it is made of, and its numbers as CSV."""
    names = {one.id: one.repo_id for one in models}
    results = [published_result(one.compact(), names.get(one.model, one.model)) for one in measured]
    how = TableOptions(
        cost=any(one.cost for one in results),
        calibration=any(score.calibration for one in results for score in one.scores),
    )
    tables = build_tables(results, how)
    tags = ["revt_hf", "semantic-segmentation", "domain-generalization"]
    # Neither file is rows of a dataset.
    front = DatasetCardData(tags=tags, viewer=False)
    text = render_card(
        "results_card.md.jinja",
        metadata=yaml_text(front.to_dict()),
        name=repo_id.partition("/")[2],
        marker=MARKER,
        version=__version__,
        tables=formatted(tables, TableFormat.markdown),
        models=models,
        hub_url=HUB_URL,
    )
    write_text(target / CARD_FILE, text)
    write_results(target / RESULTS_FILE, results)
    write_text(target / TABLE_FILE, formatted(tables, TableFormat.csv))


def _assembled(works: Sequence[_Work], run: Path, options: PushOptions) -> list[Repository]:
    """Write and check every repository; only a dry run keeps them."""
    found, facts = [], []
    with _place(run, options) as folder:
        for work in works:
            target = folder / work.repository.repo_id.partition("/")[2]
            repository, told = work.written(target)
            found.append(repository)
            facts += [told] if told else []
            if options.dry_run is None:
                # All models at once may not fit.
                shutil.rmtree(target)
        check_dataset_ids(options.dataset_ids, facts)
    return found


@contextmanager
def _place(run: Path, options: PushOptions) -> Iterator[Path]:
    if options.dry_run is not None:
        with atomic_folder(Path(options.dry_run), options.overwrite, [run]) as scratch:
            yield scratch
    else:
        with tempfile.TemporaryDirectory(prefix="revt-push-") as name:
            yield Path(name)


def _sent(works: Sequence[_Work], prefix: str, options: PushOptions) -> list[str]:
    """Send every repository, then extend the collection; what is there already is not sent."""
    done: list[str] = []
    with tempfile.TemporaryDirectory(prefix="revt-push-") as name:
        for work in works:
            target, place = Path(name) / "content", work.repository
            work.written(target)
            advice = (
                f"{len(done)} of {len(works)} repositories are published: run the same command "
                "again, which goes on from there"
            )
            done.append(send(target, place.repo_id, options, place.kind, advice))
            shutil.rmtree(target)
    collect(options, prefix, [(work.repository.repo_id, work.repository.kind) for work in works])
    return done
