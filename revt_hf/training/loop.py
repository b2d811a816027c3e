"""The Accelerate loop: recipe in, SegFormer folder out."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import printable
from revt_hf.core.output_folders import locked
from revt_hf.core.outputs import write_json
from revt_hf.core.processes import failing_together, local_main_first, separate_accelerator
from revt_hf.evaluation.splits import source_splits
from revt_hf.models.folded_head import fold_
from revt_hf.training.data import TrainingCrops, derived_seed, training_loader
from revt_hf.training.loss import averaged_pixels, segmentation_loss
from revt_hf.training.optim import build_optimizer, set_learning_rate
from revt_hf.training.result import save_result, write_recipe
from revt_hf.training.run_checkpoints import (
    TrainingState,
    load_checkpoint,
    save_checkpoint,
    whole_checkpoint,
)
from revt_hf.training.run_folder import (
    begin_run,
    check_run,
    finish_run,
    give_up_run,
    training_folder,
)
from revt_hf.training.setup import (
    RunParts,
    RunRecord,
    apply_statistics,
    build_accelerator,
    check_same_processes,
    effective_batch,
    load_parts,
    training_mode,
)
from revt_hf.training.tracking import TRACKER_PROJECT, Meter, MetricsLog, check_trackers, flat
from revt_hf.training.validation import validation_scores
from revt_hf.training.weight_averages import MovingAverage, WindowAverage

_log = logging.getLogger("revt_hf")


@dataclass(frozen=True)
class TrainOptions:
    """Options of a run.

    Attributes:
        resume: continue from the newest checkpoint.
        overwrite: replace an older result once the new one is complete.
        quiet: no progress bar.
    """

    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


@separate_accelerator()
def train(recipe: Recipe, output: str | Path, options: TrainOptions | None = None) -> Path:
    """Train a recipe; the result is an ordinary SegFormer folder.

    ``output`` receives ``config.json``, ``model.safetensors``, ``preprocessor_config.json``, the
    resolved ``recipe.yaml``, ``run.json`` and ``metrics.jsonl``, and the SegFormer folders
    ``ema/`` and ``swad/`` if the recipe asks for averages. An interrupted run that is resumed ends
    with the same weights, bit for bit, as an uninterrupted one.

    With several processes (``torchrun``, ``accelerate launch``) each takes ``batch_size`` images
    of every batch; the main one writes.

    Raises:
        UserError: bad recipe values, missing data, an output that exists, a loss that is not
            finite; with several processes, on the main one only.
    """
    options = options or TrainOptions()
    run = Path(output)
    accelerator = build_accelerator(recipe, run)
    if not accelerator.is_main_process:
        _log.setLevel(logging.ERROR)
    with ExitStack() as stack:
        with failing_together(accelerator):
            if accelerator.is_main_process:
                stack.enter_context(locked(run))
                check_run(recipe, run, options.resume, options.overwrite)
                if options.resume:
                    check_same_processes(training_folder(run), accelerator.num_processes)
            check_trackers(recipe.train.trackers)
            source_splits(recipe.sources)
            effective_batch(recipe.train, accelerator.num_processes)
        _train(recipe, run, options, accelerator)
    return run


def _train(recipe: Recipe, run: Path, options: TrainOptions, accelerator: Accelerator) -> None:
    parts = local_main_first(accelerator, lambda: load_parts(recipe))
    record = RunRecord.of(recipe, accelerator)
    folder = None
    with failing_together(accelerator):
        if accelerator.is_main_process:
            folder = begin_run(run, options.resume)
            write_recipe(recipe, folder)
            record.write(folder)
            record.announce(recipe.train, options.quiet)
    folder = broadcast_object_list([folder])[0]
    project = accelerator.project_configuration
    project.project_dir = project.logging_dir = str(folder)
    try:
        _Run(recipe, folder, options, accelerator, parts, record).train()
        with failing_together(accelerator):
            if accelerator.is_main_process:
                finish_run(folder, run)
    except BaseException:
        if accelerator.is_main_process:
            give_up_run(folder, run)
        raise


class _Run:
    """The model, its optimizer and its averages, and the loop over them."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        options: TrainOptions,
        accelerator: Accelerator,
        parts: RunParts,
        record: RunRecord,
    ) -> None:
        self._recipe, self._settings = recipe, recipe.train
        self._folder = folder
        self._options = options
        self._accelerator = accelerator
        self._parts = parts
        self._record = record
        network: Any = parts.model
        apply_statistics(network, record.batch_norm)
        if self._settings.folded_head:
            fold_(network)
        if self._settings.compile:
            network.compile()
        optimizer = build_optimizer(network, recipe.optimizer)
        self._model, self._optimizer = accelerator.prepare(network, optimizer)
        self._bare = accelerator.unwrap_model(self._model)
        self._averages: dict[str, MovingAverage | WindowAverage] = {}
        if self._settings.ema is not None:
            self._averages["ema"] = MovingAverage(self._bare, self._settings.ema)
        if self._settings.swad is not None:
            self._averages["swad"] = WindowAverage(**self._settings.swad.model_dump())

    def train(self) -> None:
        settings, accelerator = self._settings, self._accelerator
        state = TrainingState(self._bare, self._optimizer, self._averages)
        done = self._resume(state)
        self._metrics = MetricsLog(self._folder, done) if accelerator.is_main_process else None
        if settings.trackers:
            accelerator.init_trackers(
                TRACKER_PROJECT, config=flat(self._recipe.model_dump(mode="json"))
            )
        batches = self._batches(done)
        progress = tqdm(
            total=settings.steps,
            initial=done,
            desc=printable(self._folder.name),
            unit="step",
            disable=self._options.quiet or not accelerator.is_local_main_process,
        )
        meter = Meter(self._record.effective_batch, accelerator)
        training_mode(self._model, self._record.batch_norm)
        for step in range(done, settings.steps):
            set_learning_rate(self._optimizer, step, settings.steps, self._recipe.schedule)
            meter.add(self._optimizer_step(batches, step))
            for average in self._averages.values():
                average.update(self._bare)
            now = step + 1
            progress.update()
            if now % settings.log_every == 0 or now == settings.steps:
                self._report_speed(now, meter.read(step), progress)
            if self._parts.held_out and (
                now % (settings.validate_every or 1) == 0 or now == settings.steps
            ):
                self._validate(now)
                meter.restart_clock()
            if settings.checkpoint_every and now % settings.checkpoint_every == 0:
                save_checkpoint(accelerator, state, self._folder, now, settings.keep_checkpoints)
        progress.close()
        with failing_together(accelerator):
            if accelerator.is_main_process:
                self._save()
        if settings.trackers:
            accelerator.end_training()

    def _resume(self, state: TrainingState) -> int:
        """Load the newest whole checkpoint; the number of steps done."""
        if not self._options.resume:
            return 0
        found = None
        with failing_together(self._accelerator):
            if self._accelerator.is_main_process:
                found = whole_checkpoint(self._folder)
        found = broadcast_object_list([found])[0]
        if found is None:
            _log.info("%s has no checkpoint yet: starting from the beginning", self._folder)
            return 0
        checkpoint, step = found
        with failing_together(self._accelerator):
            load_checkpoint(checkpoint, state)
        return int(step)

    def _batches(self, done: int) -> Iterator[Any]:
        settings, batch = self._settings, self._record.effective_batch
        crops = TrainingCrops(
            self._parts.images,
            [source.weight for source in self._recipe.sources],
            self._parts.pipeline,
            settings.seed,
            settings.steps * batch,
        )
        loader = training_loader(crops, settings.batch_size, settings.workers, done * batch)
        return iter(self._accelerator.prepare_data_loader(loader))

    def _optimizer_step(self, batches: Iterator[Any], step: int) -> torch.Tensor:
        """One optimizer step; returns this process's share of its loss (the shares sum to it)."""
        settings, accelerator = self._settings, self._accelerator
        micro_batches = [next(batches) for _ in range(settings.gradient_accumulation)]
        counts = [averaged_pixels(batch["labels"], settings.loss) for batch in micro_batches]
        pixels = accelerator.reduce(torch.stack(counts).sum(), reduction="sum")
        losses = []
        for part, batch in enumerate(micro_batches):
            # Seeds dropout and drop path: a function of the step, not of the past.
            torch.manual_seed(derived_seed(settings.seed, step, part, accelerator.process_index))
            last = part == len(micro_batches) - 1
            with nullcontext() if last else accelerator.no_sync(self._model):
                logits = self._model(pixel_values=batch["pixel_values"]).logits
                loss = segmentation_loss(
                    logits, batch["labels"], settings.loss, pixels, settings.loss_rows
                )
                # Gradients are averaged over processes where they have to be summed.
                accelerator.backward(loss * accelerator.num_processes)
            losses.append(loss.detach())
        self._optimizer.step()
        self._optimizer.zero_grad()
        return torch.stack(losses).sum()

    def _validate(self, step: int) -> None:
        values = validation_scores(
            self._accelerator, self._bare, self._parts.held_out, self._recipe
        )
        self._report(step, values)
        for average in self._averages.values():
            if isinstance(average, WindowAverage):
                average.validated(values["val_loss"])
        training_mode(self._model, self._record.batch_norm)

    def _report_speed(self, step: int, values: dict[str, float], progress: Any) -> None:
        values["lr"] = self._optimizer.param_groups[0]["lr"]
        progress.set_postfix(
            loss=f"{values['loss']:.3f}",
            lr=f"{values['lr']:.1e}",
            images=f"{values['images_per_second']:.1f}/s",
        )
        self._report(step, values)

    def _report(self, step: int, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(step, values)
        if self._settings.trackers:
            self._accelerator.log(values, step=step)

    def _save(self) -> None:
        averaged: dict[str, dict[str, torch.Tensor]] = {}
        for name, average in self._averages.items():
            if isinstance(average, WindowAverage):
                averaged[name], record = average.result()
                write_json(self._folder / name / "window.json", record)
            else:
                averaged[name] = average.state_dict()
        save_result(self._bare, self._folder, self._recipe, self._parts.example_size, averaged)
