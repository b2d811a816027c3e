"""The Accelerate loop: recipe in, model folder out."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    GradientAccumulationPlugin,
    broadcast_object_list,
)
from tqdm import tqdm

from revt_hf.checkpoints.tensors import RECIPE_FILE
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import printable
from revt_hf.core.output_folders import locked
from revt_hf.core.outputs import write_json, write_text
from revt_hf.core.processes import failing_together, local_main_first, separate_accelerator
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.result import source_splits
from revt_hf.models.folded_head import fold_
from revt_hf.training import run_folder, setup
from revt_hf.training.data import TrainingCrops, derived_seed, training_loader
from revt_hf.training.loss import Meter, averaged_pixels, segmentation_loss, validation_scores
from revt_hf.training.optim import MovingAverage, WindowAverage, build_optimizer, set_learning_rate
from revt_hf.training.saving import save_result

_log = logging.getLogger("revt_hf")
_SUMMARY = "loss={loss:.3f}, lr={lr:.1e}, images={images_per_second:.1f}/s"


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


def _on_main(accelerator: Accelerator, work: Callable[[], Any]) -> Any:
    """Call ``work`` on the main process; an error ends all of them."""
    with failing_together(accelerator):
        return work() if accelerator.is_main_process else None


@separate_accelerator()
def train(recipe: Recipe, output: str | Path, options: TrainOptions | None = None) -> Path:
    """Train a recipe; the result is an ordinary model folder.

    ``output`` also receives the resolved ``recipe.yaml``, ``run.json`` and ``metrics.jsonl``, and
    the model folders ``ema/`` and ``swad/`` if the recipe asks for averages. A resumed run ends
    with the same weights, bit for bit, as an uninterrupted one; a finished one stays as it is.

    With several processes (``torchrun``, ``accelerate launch``) each takes ``batch_size`` images
    of every batch; the main one writes.

    Raises:
        UserError: bad recipe values, missing data, an output that exists, a loss that is not
            finite; with several processes, on the main one only.
    """
    options = options or TrainOptions()
    run = Path(output)
    # About depth-wise kernels, whose second stride has no meaning.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.train.precision == "bf16" else "no",
        # The loop accumulates itself; the launcher's environment does not override a plugin.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(run),
    )
    if not accelerator.is_main_process:
        _log.setLevel(logging.ERROR)
    with ExitStack() as stack:
        with failing_together(accelerator):
            if accelerator.is_main_process:
                stack.enter_context(locked(run))
                run_folder.check_run(recipe, run, options.resume, options.overwrite)
                if options.resume:
                    before = run_folder.training_folder(run)
                    setup.check_same_processes(before, accelerator.num_processes)
            setup.check_trackers(recipe.train.trackers)
            source_splits(recipe.sources)
            record = setup.RunRecord.of(recipe, accelerator)
        finished = options.resume and run_folder.is_finished(run)
        if broadcast_object_list([finished])[0]:
            _on_main(
                accelerator, lambda: run_folder.finish_run(run_folder.training_folder(run), run)
            )
            _log.info("%s is finished, so nothing is trained: --overwrite would train it anew", run)
        else:
            _train(recipe, run, options, accelerator, record)
    return run


def _train(
    recipe: Recipe,
    run: Path,
    options: TrainOptions,
    accelerator: Accelerator,
    record: setup.RunRecord,
) -> None:
    quiet = options.quiet or not accelerator.is_local_main_process
    parts = local_main_first(accelerator, lambda: setup.load_parts(recipe, quiet))

    def begin() -> Path:
        folder = run_folder.begin_run(run, options.resume)
        write_text(folder / RECIPE_FILE, recipe.to_yaml())
        write_json(folder / run_folder.RUN_FILE, record.model_dump(mode="json"))
        record.announce(recipe.train, options.quiet)
        return folder

    folder = broadcast_object_list([_on_main(accelerator, begin)])[0]
    project = accelerator.project_configuration
    project.project_dir = project.logging_dir = str(folder)
    try:
        _Run(recipe, folder, options, accelerator, parts, record).train()
        _on_main(accelerator, lambda: run_folder.finish_run(folder, run))
    except BaseException:
        if accelerator.is_main_process:
            run_folder.give_up_run(folder, run)
        raise


@dataclass
class _Run:
    recipe: Recipe
    folder: Path
    options: TrainOptions
    accelerator: Accelerator
    parts: setup.RunParts
    record: setup.RunRecord

    def __post_init__(self) -> None:
        self._settings = self.recipe.train
        network: Any = self.parts.model
        setup.apply_statistics(network, self.record.batch_norm)
        if self._settings.folded_head:
            fold_(network)
        if self._settings.compile:
            network.compile()
        optimizer = build_optimizer(network, self.recipe.optimizer)
        self._model, self._optimizer = self.accelerator.prepare(network, optimizer)
        self._bare = self.accelerator.unwrap_model(self._model)
        self._flips = normalisation_of(network).do_flip_channel_order
        self._averages: dict[str, MovingAverage | WindowAverage] = {}
        if self._settings.ema is not None:
            self._averages["ema"] = MovingAverage(self._bare, self._settings.ema)
        if self._settings.swad is not None:
            self._averages["swad"] = WindowAverage(**self._settings.swad.model_dump())

    def train(self) -> None:
        settings, accelerator = self._settings, self.accelerator
        averages = {f"{name}.pt": average for name, average in self._averages.items()}
        state = {run_folder.MODEL: self._bare, run_folder.OPTIMIZER: self._optimizer, **averages}
        done = self._resume(state)
        is_main = accelerator.is_main_process
        self._metrics = setup.MetricsLog(self.folder, done) if is_main else None
        if settings.trackers:
            fields = setup.flat(self.recipe.model_dump(mode="json"))
            accelerator.init_trackers(run_folder.TRACKER_PROJECT, config=fields)
        batches = self._batches(done)
        progress = tqdm(
            total=settings.steps,
            initial=done,
            desc=printable(self.folder.name),
            unit="step",
            disable=self.options.quiet or not accelerator.is_local_main_process,
        )
        meter = Meter(self.record.effective_batch, accelerator)
        setup.training_mode(self._model, self.record.batch_norm)
        for step in range(done, settings.steps):
            set_learning_rate(self._optimizer, step, settings.steps, self.recipe.schedule)
            meter.add(self._optimizer_step(batches, step))
            for average in self._averages.values():
                average.update(self._bare)
            now = step + 1
            progress.update()
            if now % settings.log_every == 0 or now == settings.steps:
                values = {**meter.read(step), "lr": self._optimizer.param_groups[0]["lr"]}
                progress.set_postfix_str(_SUMMARY.format_map(values))
                self._report(now, values)
            if self.parts.held_out and (
                now % (settings.validate_every or 1) == 0 or now == settings.steps
            ):
                self._validate(now)
                meter.restart_clock()
            if settings.checkpoint_every and now % settings.checkpoint_every == 0:
                saved = (state, self.folder, now, settings.keep_checkpoints)
                _on_main(accelerator, partial(run_folder.save_checkpoint, *saved))
        progress.close()
        _on_main(accelerator, self._save)
        if settings.trackers:
            accelerator.end_training()

    def _resume(self, state: run_folder.State) -> int:
        if not self.options.resume:
            return 0
        found = _on_main(self.accelerator, lambda: run_folder.whole_checkpoint(self.folder))
        found = broadcast_object_list([found])[0]
        if found is None:
            _log.info("%s has no checkpoint yet: starting from the beginning", self.folder)
            return 0
        checkpoint, step = found
        with failing_together(self.accelerator):
            run_folder.load_checkpoint(checkpoint, state)
        return int(step)

    def _batches(self, done: int) -> Iterator[Any]:
        settings, batch = self._settings, self.record.effective_batch
        crops = TrainingCrops(
            self.parts.images,
            [source.weight for source in self.recipe.sources],
            self.parts.pipeline,
            settings.seed,
            settings.steps * batch,
            self.parts.rare_classes,
        )
        loader = training_loader(crops, settings.batch_size, settings.workers, done * batch)
        return iter(self.accelerator.prepare_data_loader(loader))

    def _optimizer_step(self, batches: Iterator[Any], step: int) -> torch.Tensor:
        """This process's share of the step's loss; the shares sum to it."""
        settings, accelerator = self._settings, self.accelerator
        micro_batches = [next(batches) for _ in range(settings.gradient_accumulation)]
        counts = [averaged_pixels(batch["labels"], settings.loss) for batch in micro_batches]
        pixels = accelerator.reduce(torch.stack(counts).sum(), reduction="sum")
        losses = []
        for part, batch in enumerate(micro_batches):
            # Seeds dropout and drop path: a function of the step, not of the past.
            torch.manual_seed(derived_seed(settings.seed, step, part, accelerator.process_index))
            last = part == len(micro_batches) - 1
            with nullcontext() if last else accelerator.no_sync(self._model):
                images = batch["pixel_values"]
                if self._flips:
                    images = images.flip(1)
                logits = self._model(pixel_values=images).logits
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
        held_out = self.parts.held_out
        values = validation_scores(self.accelerator, self._bare, held_out, self.recipe)
        self._report(step, values)
        for average in self._averages.values():
            if isinstance(average, WindowAverage):
                average.validated(values["val_loss"])
        setup.training_mode(self._model, self.record.batch_norm)

    def _report(self, step: int, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(step, values)
        if self._settings.trackers:
            self.accelerator.log(values, step=step)

    def _save(self) -> None:
        averaged: dict[str, dict[str, torch.Tensor]] = {}
        for name, average in self._averages.items():
            if isinstance(average, WindowAverage):
                averaged[name], record = average.result()
                write_json(self.folder / name / "window.json", record)
            else:
                averaged[name] = average.state_dict()
        save_result(self._bare, self.folder, self.recipe, self.parts.example_size, averaged)
