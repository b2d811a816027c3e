"""The Accelerate loop: recipe in, SegFormer folder out."""

import logging
import warnings
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
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
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import printable
from revt_hf.core.outputs import locked, write_json
from revt_hf.core.processes import failing_together, local_main_first, separate_accelerator
from revt_hf.data.domains import domain_label
from revt_hf.evaluation.confusion import scores_from
from revt_hf.evaluation.splits import source_splits
from revt_hf.models.folded_head import fold_, folded
from revt_hf.training.batch_norm import (
    Statistics,
    apply_statistics,
    share_running_statistics,
    statistics,
    training_mode,
)
from revt_hf.training.data import TrainingCrops, derived_seed, training_loader
from revt_hf.training.ema import MovingAverage
from revt_hf.training.loss import averaged_pixels, segmentation_loss
from revt_hf.training.meter import Meter
from revt_hf.training.optim import build_optimizer, set_learning_rate
from revt_hf.training.output import begin_run, check_run, finish_run, give_up_run
from revt_hf.training.parts import RunParts, check_parts, load_parts
from revt_hf.training.result import save_result, write_recipe
from revt_hf.training.run_checkpoints import (
    TrainingState,
    load_checkpoint,
    save_checkpoint,
    whole_checkpoint,
)
from revt_hf.training.run_record import RunRecord, announce, device_name, effective_batch
from revt_hf.training.swad import WindowAverage
from revt_hf.training.tracking import TRACKER_PROJECT, MetricsLog, check_trackers, flat
from revt_hf.training.validation import sums_of

_log = logging.getLogger("revt_hf")


@dataclass(frozen=True)
class RunOptions:
    """What a run is told besides its recipe."""

    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


@separate_accelerator()
def train(recipe: Recipe, output: str | Path, options: RunOptions | None = None) -> Path:
    """Train as the recipe says; the result is an ordinary SegFormer folder.

    ``output`` holds ``config.json``, ``model.safetensors``, ``preprocessor_config.json``, the
    resolved ``recipe.yaml``, ``run.json`` and ``metrics.jsonl`` (and ``ema/`` and ``swad/``,
    SegFormer folders as well, where the recipe asks for averages). A run that was interrupted goes
    on from its newest checkpoint with ``resume`` and ends with the same weights, bit for bit, as
    one that was not.

    With several processes (``torchrun``, ``accelerate launch``) each takes ``batch_size`` images
    of every batch; the main one writes.

    Raises:
        UserError: bad recipe values, missing data, an output that exists, a loss that is not
            finite; of several processes, on the main one only.
    """
    options = options or RunOptions()
    run = Path(output)
    accelerator = _accelerator(recipe, run)
    processes = accelerator.num_processes
    if not accelerator.is_main_process:
        logging.getLogger("revt_hf").setLevel(logging.ERROR)
    with ExitStack() as stack:
        with failing_together(accelerator):
            if accelerator.is_main_process:
                stack.enter_context(locked(run))
                check_run(recipe, run, options.resume, options.overwrite, processes)
            check_trackers(recipe.train.trackers)
            source_splits(recipe.sources)
            effective_batch(recipe.train, processes)
        return _train(recipe, run, options, accelerator)


def _train(recipe: Recipe, run: Path, options: RunOptions, accelerator: Accelerator) -> Path:
    processes = accelerator.num_processes
    parts = local_main_first(accelerator, lambda: load_parts(recipe))
    with failing_together(accelerator):
        check_parts(recipe, parts)
    record = RunRecord(
        processes=processes,
        effective_batch=effective_batch(recipe.train, processes),
        device=device_name(accelerator),
        precision=recipe.train.precision,
        batch_norm=statistics(recipe.model.batch_norm, accelerator.device.type, processes),
    )
    folder = None
    with failing_together(accelerator):
        if accelerator.is_main_process:
            folder = begin_run(run, options.resume)
            write_recipe(recipe, folder)
            record.write(folder)
            announce(record, recipe.train, options.quiet)
    folder = broadcast_object_list([folder])[0]
    accelerator.project_configuration.project_dir = str(folder)
    accelerator.project_configuration.logging_dir = str(folder)
    try:
        _Run(recipe, folder, options, accelerator, parts, record).train()
        with failing_together(accelerator):
            if accelerator.is_main_process:
                finish_run(folder, run)
    except BaseException:
        if accelerator.is_main_process:
            give_up_run(folder, run)
        raise
    return run


def _accelerator(recipe: Recipe, run: Path) -> Accelerator:
    # Said of depth-wise kernels, whose second stride means nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return Accelerator(
        mixed_precision="bf16" if recipe.train.precision == "bf16" else "no",
        # The loop accumulates itself; a plugin is not overruled by the launcher's environment.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(run),
    )


class _Run:
    """One training run: its parts, and the loop over them."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        options: RunOptions,
        accelerator: Accelerator,
        parts: RunParts,
        record: RunRecord,
    ) -> None:
        self._recipe = recipe
        self._folder = run
        self._options = options
        self._accelerator = accelerator
        self._parts = parts
        self._batch = record.effective_batch
        self._batch_norm: Statistics = record.batch_norm
        self._protocol = recipe.evaluation

    def train(self) -> None:
        settings, accelerator = self._recipe.train, self._accelerator
        model: Any = self._parts.model
        apply_statistics(model, self._batch_norm)
        if settings.folded_head:
            fold_(model)
        if settings.compile:
            model.compile()
        optimizer = build_optimizer(model, self._recipe.optimizer)
        model, optimizer = accelerator.prepare(model, optimizer)
        bare = accelerator.unwrap_model(model)
        average = MovingAverage(bare, settings.ema) if settings.ema is not None else None
        window = WindowAverage(**settings.swad.model_dump()) if settings.swad else None
        averages = {
            name: one for name, one in (("ema", average), ("swad", window)) if one is not None
        }
        state = TrainingState(bare, optimizer, averages)
        done = self._resume(state)
        log = MetricsLog(self._folder, done) if accelerator.is_main_process else None
        if settings.trackers:
            accelerator.init_trackers(
                TRACKER_PROJECT, config=flat(self._recipe.model_dump(mode="json"))
            )
        batches = iter(self._loader(done))
        progress = tqdm(
            total=settings.steps,
            initial=done,
            desc=printable(self._folder.name),
            unit="step",
            disable=self._options.quiet or not accelerator.is_local_main_process,
        )
        meter = Meter(self._batch, accelerator)
        training_mode(model, self._batch_norm)
        for step in range(done, settings.steps):
            set_learning_rate(optimizer, step, settings.steps, self._recipe.schedule)
            meter.add(self._optimizer_step(model, optimizer, batches, step))
            for one in averages.values():
                one.update(bare)
            now = step + 1
            progress.update()
            if now % settings.log_every == 0 or now == settings.steps:
                values = {**meter.read(step), "lr": optimizer.param_groups[0]["lr"]}
                progress.set_postfix(
                    loss=f"{values['loss']:.3f}",
                    lr=f"{values['lr']:.1e}",
                    images=f"{values['images_per_second']:.1f}/s",
                )
                self._report(log, now, values)
            if self._parts.held_out and (
                now % (settings.validate_every or 1) == 0 or now == settings.steps
            ):
                scores = self._validate(bare)
                self._report(log, now, scores)
                if window is not None:
                    window.validated(scores["val_loss"])
                training_mode(model, self._batch_norm)
                meter.restart_clock()
            if settings.checkpoint_every and now % settings.checkpoint_every == 0:
                save_checkpoint(accelerator, state, self._folder, now, settings.keep_checkpoints)
        progress.close()
        with failing_together(accelerator):
            if accelerator.is_main_process:
                self._save(bare, average, window)
        if settings.trackers:
            accelerator.end_training()

    def _save(
        self,
        model: SegformerForSemanticSegmentation,
        average: MovingAverage | None,
        window: WindowAverage | None,
    ) -> None:
        averages: dict[str, dict[str, torch.Tensor]] = {}
        if average is not None:
            averages["ema"] = average.state_dict()
        if window is not None:
            averages["swad"], record = window.result()
            write_json(self._folder / "swad" / "window.json", record)
        save_result(model, self._folder, self._recipe, self._parts.example_size, averages)

    def _resume(self, state: TrainingState) -> int:
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

    def _loader(self, done: int) -> Any:
        settings = self._recipe.train
        crops = TrainingCrops(
            self._parts.images,
            [source.weight for source in self._recipe.sources],
            self._parts.pipeline,
            settings.seed,
            settings.steps * self._batch,
        )
        return self._accelerator.prepare_data_loader(
            training_loader(crops, settings.batch_size, settings.workers, done * self._batch)
        )

    def _optimizer_step(self, model: Any, optimizer: Any, batches: Any, step: int) -> torch.Tensor:
        """One optimizer step; this process's part of its loss, which the parts sum to."""
        settings, accelerator = self._recipe.train, self._accelerator
        micro_batches = [next(batches) for _ in range(settings.gradient_accumulation)]
        counts = [averaged_pixels(batch["labels"], settings.loss) for batch in micro_batches]
        pixels = accelerator.reduce(torch.stack(counts).sum(), reduction="sum")
        losses = []
        for part, batch in enumerate(micro_batches):
            # Dropout and drop path draw from here: a function of the step, not of the past.
            torch.manual_seed(derived_seed(settings.seed, step, part, accelerator.process_index))
            last = part == len(micro_batches) - 1
            with nullcontext() if last else accelerator.no_sync(model):
                logits = model(pixel_values=batch["pixel_values"]).logits
                loss = segmentation_loss(
                    logits, batch["labels"], settings.loss, pixels, settings.loss_rows
                )
                # The gradients of all processes are averaged where they have to be summed.
                accelerator.backward(loss * accelerator.num_processes)
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack(losses).sum()

    def _validate(self, model: SegformerForSemanticSegmentation) -> dict[str, float]:
        """Loss and scores on each source's val; of several, their mean and each one's scores."""
        accelerator = self._accelerator
        share_running_statistics(model)
        model.eval()
        scores, losses = [], []
        for images in self._parts.held_out:
            indices = range(accelerator.process_index, len(images), accelerator.num_processes)
            with folded(model), self._uncompiled():
                (own,) = sums_of(
                    model,
                    [model.decode_head],
                    images,
                    indices,
                    self._protocol,
                    self._recipe.train.workers,
                )
            own_parts = (
                torch.from_numpy(own.matrix),
                torch.tensor(own.loss),
                torch.tensor(own.pixels),
            )
            matrix, loss, pixels = (
                accelerator.reduce(part.to(accelerator.device), reduction="sum")
                for part in own_parts
            )
            scores.append(scores_from(matrix.cpu().numpy()))
            losses.append(float(loss) / max(int(pixels), 1))
        values = {
            "val_loss": sum(losses) / len(losses),
            "val_mIoU": sum(score.miou for score in scores) / len(scores),
            "val_aAcc": sum(score.aacc for score in scores) / len(scores),
        }
        if len(scores) > 1:
            for source, score in zip(self._recipe.sources, scores, strict=True):
                values[f"val_mIoU of {domain_label(source, source.val)}"] = score.miou
        return values

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Images of many sizes are not worth compiling for."""
        if not self._recipe.train.compile:
            return nullcontext()
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance

    def _report(self, log: MetricsLog | None, step: int, values: dict[str, float]) -> None:
        if log is not None:
            log.write(step, values)
        if self._recipe.train.trackers:
            self._accelerator.log(values, step=step)
