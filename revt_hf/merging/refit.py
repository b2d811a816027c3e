"""Train the decode head alone, on the frozen encoder of a merge.

A merge's head comes from one member, and was trained for that member's features. This is a run of
the training loop, with a recipe derived from the user's, in a hidden folder beside the output; from
what it leaves only the head is taken. The statistics of its BatchNorm are measured in the end:
running ones are those of the last few batches, of some layers of transformers of the last one only.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from revt_hf.checkpoints.architecture import Description
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.checkpoints.names import names_on_disk
from revt_hf.checkpoints.tensors import RECIPE_FILE, refuse_adapter
from revt_hf.config.network import Model
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import locked
from revt_hf.core.outputs import check_output, read_json_object, write_json
from revt_hf.core.processes import failing_together, process_state
from revt_hf.data.domains import domain_label, space_of_spec
from revt_hf.evaluation.loading import check_sizes
from revt_hf.merging.changed_model import (
    Original,
    SourceVal,
    ValScore,
    as_stored,
    change_sources,
    original,
    write_changed,
)
from revt_hf.merging.recalibration import spread_images
from revt_hf.merging.record import checked_record, read_record
from revt_hf.merging.statistics import head_norms, recalibrate_model
from revt_hf.models.load import load_model
from revt_hf.models.networks import input_limits
from revt_hf.models.recorded import recorded_recipe
from revt_hf.training.loop import TrainOptions, train
from revt_hf.training.run_folder import RUN_FILE, newest_checkpoint, refit_run
from revt_hf.training.setup import RunRecord

STEPS = 200
# A killed run loses no more than this part of it.
_CHECKPOINTS, _ROWS = 4, 10
# Images for the statistics of BatchNorm, about.
_MEASURED = 100
# Beside a run: the digest of the model that it was begun with.
_BEGUN_FILE = "begun.json"
_log = logging.getLogger("revt_hf")


@dataclass(frozen=True)
class RefitOptions:
    """Options of :func:`refit`.

    Attributes:
        steps: of the optimizer.
        fresh: start from a head of random weights, not from the model's own.
        score_val: also score the model before and after on each source's val.
        resume: continue a refit that was interrupted.
        overwrite: replace the output, and start over.
        quiet: no progress bars.
    """

    steps: int = STEPS
    fresh: bool = False
    score_val: bool = True
    resume: bool = False
    overwrite: bool = False
    quiet: bool = True


def refit(
    model: str | Path, output: str | Path, recipe: Recipe, options: RefitOptions | None = None
) -> tuple[ValScore, ...]:
    """Train the decode head of a model on source images; its encoder keeps its bits.

    The run is that of :func:`train` with :func:`refit_recipe`, and resumes like it: a refit that
    was killed ends with the same weights, bit for bit, as an uninterrupted one. The record beside
    the weights gets another change.

    Args:
        model: a model folder, such as a merge.
        output: the new folder.
        recipe: its sources (never targets), augmentation, optimizer, schedule and training
            settings are used.
        options: see :class:`RefitOptions`.

    Returns:
        mIoU (percent) on each source's val before and after.

    Raises:
        UserError: the model has no decode head that can be trained, or other classes than the
            recipe's sources; a source or its data cannot be used; ``output`` exists.
    """
    model, output, options = Path(model), Path(output), options or RefitOptions()
    processes, run = process_state(), refit_run(output)
    with ExitStack() as writing:
        # What was read must be the same at the end of the block.
        with ExitStack() as reading:
            with failing_together(processes):
                refuse_adapter(model)
                if processes.is_main_process:
                    writing.enter_context(locked(output))
                read = reading.enter_context(original(model))
                derived = refit_recipe(recipe, read.description, options)
                finished = options.resume and _is_finished(output, read, derived)
                if processes.is_main_process and not finished:
                    _begin(read, output, derived, options)
            if finished:
                _log.info("%s is finished, so nothing is trained", output)
                return ()
            with failing_together(processes):
                rows = _images_to_measure(model, derived)
                scored = derived.sources if options.score_val and processes.is_main_process else ()
                val = SourceVal(scored, derived.evaluation, options.quiet)
                before = val.score(model)
            with _kept_if_begun(run):
                train(derived, run, TrainOptions(options.resume, quiet=options.quiet))
        with failing_together(processes):
            if processes.is_main_process:
                _write(read, run, output, derived, rows, options)
                shutil.rmtree(run.parent, ignore_errors=True)
    return val.compared(before, val.score(output))


def can_resume(model: Path, output: Path, recipe: Recipe, options: RefitOptions) -> bool:
    """Whether a refit of the same model with the same settings was interrupted."""
    run = refit_run(output)
    if not (run / RECIPE_FILE).is_file():
        return False
    with original(model) as read:
        derived = refit_recipe(recipe, read.description, options)
        return recorded_recipe(run) == derived and _begun_with(run) == read.sha256


def refit_recipe(recipe: Recipe, description: Description, options: RefitOptions) -> Recipe:
    """The run that refits a model: a recipe whose encoder is that of the model, and frozen.

    The head learns at the recipe's rate of the head; the warm-up is the same part of fewer steps.
    Averages of weights, validations and trackers are those of a long run and left out.

    Raises:
        UserError: the model's head cannot be trained, or it has other classes.
    """
    family, model = description.family, description.label
    kind = description.config().get("model_type", "segformer")
    if family.masks or family.generic:
        why = "predicts masks, whose loss is not built here" if family.masks else "is not known"
        head = f"{model} ({family.title})" if family.masks else f"the head of a {family.title}"
        raise UserError(f"{head} {why} (docs/models.md): it cannot be refit")
    for source in recipe.sources:
        space_of_spec(source).rows(description.classes, f"{model}: its config.json")
    used, steps = recipe.model, options.steps
    network = Model(
        family=kind,
        init=model,
        head="fresh" if options.fresh else "init",
        freeze="encoder",
        **{name: getattr(used, name) for name in ("drop_path", "dropout", "batch_norm")},
    )
    schedule, settings = recipe.schedule.model_dump(), recipe.train.model_dump()
    schedule["warmup_steps"] = round(recipe.schedule.warmup_steps * steps / recipe.train.steps)
    settings |= {"steps": steps, "ema": None, "swad": None, "validate_every": None, "trackers": ()}
    # The head is most of the work: of a B0 on a CPU folding it makes a step three times as fast.
    settings["folded_head"] = family is SEGFORMER
    for name, parts in (("checkpoint_every", _CHECKPOINTS), ("log_every", _ROWS)):
        settings[name] = min(settings[name] or steps, max(1, steps // parts))
    sections = {"source", "more_sources", "augmentation", "optimizer", "evaluation"}
    kept = recipe.model_dump(include=sections)
    return Recipe.model_validate(
        {**kept, "model": network.model_dump(), "schedule": schedule, "train": settings}
    )


def _is_finished(output: Path, read: Original, derived: Recipe) -> bool:
    """Whether an output is what this refit leaves; refused where its weights were changed since."""
    record = read_record(output)
    last = record.changes[-1] if record and record.changes else None
    if last is None or (last.recipe, last.before) != (_as_json(derived), read.sha256):
        return False
    checked_record(output)
    return True


def _as_json(recipe: Recipe) -> dict[str, Any]:
    """What the record keeps; the rest of such a recipe says nothing."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude={"adapter", "targets"})
    return values


def _begin(read: Original, output: Path, derived: Recipe, options: RefitOptions) -> None:
    """Refuse an output in the way, and another model or settings than a run was begun with."""
    run, model = refit_run(output), read.folder
    inputs = [model, *(path for source in derived.sources for path in source.inputs)]
    check_output(output, options.overwrite, inputs)
    begun = (run / RECIPE_FILE).is_file()
    if options.resume and not begun:
        raise UserError(f"there is no refit to resume for {output}: start it without --resume")
    if options.resume and _begun_with(run) != read.sha256:
        raise UserError(
            f"{model} is not the model that the refit for {output} was begun with: start over "
            "with --overwrite"
        )
    if options.resume and recorded_recipe(run) != derived:
        raise UserError(
            f"the refit for {output} was begun with another recipe, --steps, --fresh or spelling "
            "of the model's path: repeat that command with --resume, or start over with --overwrite"
        )
    if begun and not options.resume and not options.overwrite:
        raise UserError(
            f"{run} holds an unfinished refit for {output}: pass --resume to continue it, or "
            "--overwrite to start over"
        )
    if not options.resume:
        shutil.rmtree(run.parent, ignore_errors=True)
        write_json(run.parent / _BEGUN_FILE, {"model": read.sha256})


def _begun_with(run: Path) -> Any:
    path = run.parent / _BEGUN_FILE
    return read_json_object(path).get("model") if path.is_file() else None


@contextmanager
def _kept_if_begun(run: Path) -> Iterator[None]:
    """After a failure, remove a run that has nothing to resume."""
    try:
        yield
    except BaseException:
        if process_state().is_main_process and newest_checkpoint(run) is None:
            shutil.rmtree(run.parent, ignore_errors=True)
        raise


def _images_to_measure(model: Path, derived: Recipe) -> Sequence[dict[str, Any]]:
    """Training images for the statistics of the head's BatchNorm; none where it keeps its own."""
    network = load_model(model)
    if derived.model.batch_norm == "frozen" or not head_norms(network):
        return ()
    rows = spread_images(derived.sources, _MEASURED)
    for part, source in zip(rows.datasets, derived.sources, strict=True):
        label = domain_label(source, source.train)
        check_sizes(part, label, derived.evaluation, input_limits([network]))
    return rows


def _measured(
    run: Path, rows: Sequence[dict[str, Any]], protocol: Protocol, quiet: bool
) -> dict[str, torch.Tensor]:
    """Tensors of a run's model, its head's statistics those of the final weights on ``rows``."""
    model = load_model(run).to(process_state().device)
    if rows:
        with tqdm(total=len(rows), unit="image", desc="BatchNorm", disable=quiet) as bar:
            recalibrate_model(model, rows, protocol, bar.update, head_only=True)
    state = model.state_dict()
    return {name: state[memory] for memory, name in names_on_disk(model).items()}


def _write(
    read: Original,
    run: Path,
    output: Path,
    derived: Recipe,
    rows: Sequence[dict[str, Any]],
    options: RefitOptions,
) -> None:
    """Copy the model with the head of the run."""
    in_encoder = read.description.family.in_encoder
    tensors = {name: tensor for name, tensor in read.tensors.items() if in_encoder(name)}
    for name, tensor in _measured(run, rows, derived.evaluation, options.quiet).items():
        if not in_encoder(name):
            tensors[name] = as_stored(read, name, tensor)
    batch = RunRecord.model_validate(read_json_object(run / RUN_FILE)).effective_batch
    change = {
        "kind": "refit",
        "sources": change_sources(derived.sources),
        "images": options.steps * batch,
        "steps": options.steps,
        "fresh": options.fresh,
        "measured": len(rows),
        "recipe": _as_json(derived),
    }
    write_changed(read, output, tensors, change, options.overwrite, read_description(run))
