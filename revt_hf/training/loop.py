"""The Accelerate loop: recipe in, SegFormer folder out."""

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from tqdm import tqdm
from transformers import SegformerForSemanticSegmentation

from revt_hf.augment import build_pipeline
from revt_hf.domains import domain_label, load_spec
from revt_hf.errors import UserError
from revt_hf.evaluation.confusion import scores_from
from revt_hf.evaluation.inference import Protocol
from revt_hf.evaluation.runner import confusion_of
from revt_hf.files import check_output
from revt_hf.modeling import build_model
from revt_hf.recipe import Recipe
from revt_hf.recorded import recorded_recipe
from revt_hf.training.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from revt_hf.training.data import TrainingCrops, derived_seed, load_training, training_loader
from revt_hf.training.ema import MovingAverage
from revt_hf.training.loss import segmentation_loss
from revt_hf.training.optim import build_optimizer, set_learning_rate
from revt_hf.training.result import pipeline_spec, save_result, write_recipe
from revt_hf.training.tracking import METRICS_FILE, MetricsLog, check_trackers, flat


@dataclass(frozen=True)
class RunOptions:
    """What a run is told besides its recipe."""

    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


def train(recipe: Recipe, output: str | Path, options: RunOptions | None = None) -> Path:
    """Train as the recipe says; the result is an ordinary SegFormer folder.

    ``output`` holds ``config.json``, ``model.safetensors``, ``preprocessor_config.json``, the
    resolved ``recipe.yaml`` and ``metrics.jsonl`` (and ``ema/``, a second SegFormer folder, when
    the recipe asks for an average). A run that was interrupted goes on from its newest
    checkpoint with ``resume`` and ends with the same weights, bit for bit, as one that was not.

    Raises:
        UserError: bad recipe values, missing data, an output that exists, a loss that is not
            finite.
    """
    options = options or RunOptions()
    run = Path(output)
    _check_output(recipe, run, options)
    check_trackers(recipe.train.trackers)
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation))
    # Accelerate keeps the first run's precision for the whole process.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.train.precision == "bf16" else "no",
        gradient_accumulation_steps=recipe.train.gradient_accumulation,
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(run),
    )
    with accelerator.local_main_process_first():
        pictures = [load_training(source, recipe.augmentation) for source in recipe.sources]
        held_out = (
            [load_spec(source, source.val) for source in recipe.sources]
            if recipe.train.validate_every
            else []
        )
    # Reads a picture of each, so that broken data stop the run before anything is written.
    example_size, *_ = [source[0]["image"].shape[:2] for source in pictures]
    model = build_model(recipe.model, recipe.train.seed)
    if accelerator.is_main_process and not options.resume:
        _prepare_output(run)
    if accelerator.is_main_process:
        write_recipe(recipe, run)
    return _Run(
        recipe, run, options, accelerator, pictures, held_out, pipeline, example_size
    ).train(model)


class _Run:
    """One training run: its parts, and the loop over them."""

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        options: RunOptions,
        accelerator: Accelerator,
        pictures: list[Any],
        held_out: list[Any],
        pipeline: Any,
        example_size: tuple[int, int],
    ) -> None:
        self._recipe = recipe
        self._folder = run
        self._options = options
        self._accelerator = accelerator
        self._pictures = pictures
        self._held_out = held_out
        self._pipeline = pipeline
        self._example_size = example_size
        self._protocol = Protocol.of(recipe.evaluation)

    def train(self, model: SegformerForSemanticSegmentation) -> Path:
        settings, accelerator = self._recipe.train, self._accelerator
        optimizer = build_optimizer(model, self._recipe.optimizer)
        model, optimizer = accelerator.prepare(model, optimizer)
        average = None
        if settings.ema is not None:
            average = MovingAverage(accelerator.unwrap_model(model), settings.ema)
            accelerator.register_for_checkpointing(average)
        done = self._resume()
        log = MetricsLog(self._folder, done) if accelerator.is_main_process else None
        if settings.trackers:
            accelerator.init_trackers("revt_hf", config=flat(self._recipe.model_dump(mode="json")))
        batches = iter(self._loader(done))
        progress = tqdm(
            total=settings.steps,
            initial=done,
            desc=self._folder.name,
            unit="step",
            disable=self._options.quiet or not accelerator.is_local_main_process,
        )
        meter = _Meter(settings.batch_size * settings.gradient_accumulation, accelerator)
        model.train()
        for step in range(done, settings.steps):
            set_learning_rate(optimizer, step, settings.steps, self._recipe.schedule)
            meter.add(self._optimizer_step(model, optimizer, batches, step))
            if average is not None:
                average.update(accelerator.unwrap_model(model))
            now = step + 1
            progress.update()
            if now % settings.log_every == 0 or now == settings.steps:
                values = {**meter.read(step), "lr": optimizer.param_groups[0]["lr"]}
                progress.set_postfix(
                    loss=f"{values['loss']:.3f}",
                    lr=f"{values['lr']:.1e}",
                    pictures=f"{values['pictures_per_second']:.1f}/s",
                )
                self._report(log, now, values)
            if self._held_out and (
                now % (settings.validate_every or 1) == 0 or now == settings.steps
            ):
                self._report(log, now, self._validate(accelerator.unwrap_model(model)))
                model.train()
                meter.restart_clock()
            if settings.checkpoint_every and now % settings.checkpoint_every == 0:
                save_checkpoint(accelerator, self._folder, now, settings.keep_checkpoints)
        progress.close()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            averaged = average.state_dict() if average is not None else None
            save_result(
                accelerator.unwrap_model(model),
                self._folder,
                self._recipe,
                self._example_size,
                averaged,
            )
        if settings.trackers:
            accelerator.end_training()
        accelerator.wait_for_everyone()
        return self._folder

    def _resume(self) -> int:
        newest = newest_checkpoint(self._folder) if self._options.resume else None
        if newest is None:
            return 0
        checkpoint, step = newest
        load_checkpoint(self._accelerator, checkpoint)
        return step

    def _loader(self, done: int) -> Any:
        settings = self._recipe.train
        per_step = (
            settings.batch_size * settings.gradient_accumulation * self._accelerator.num_processes
        )
        crops = TrainingCrops(
            self._pictures,
            [source.weight for source in self._recipe.sources],
            self._pipeline,
            settings.seed,
            settings.steps * per_step,
        )
        return self._accelerator.prepare_data_loader(
            training_loader(crops, settings.batch_size, settings.workers, done * per_step)
        )

    def _optimizer_step(self, model: Any, optimizer: Any, batches: Any, step: int) -> torch.Tensor:
        """One optimizer step; the mean loss of its micro-batches."""
        settings, accelerator = self._recipe.train, self._accelerator
        losses = []
        for part in range(settings.gradient_accumulation):
            batch = next(batches)
            # Dropout and drop path draw from here: a function of the step, not of the past.
            torch.manual_seed(derived_seed(settings.seed, step, part, accelerator.process_index))
            with accelerator.accumulate(model):
                logits = model(pixel_values=batch["pixel_values"]).logits
                loss = segmentation_loss(logits, batch["labels"], settings.loss)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _validate(self, model: SegformerForSemanticSegmentation) -> dict[str, float]:
        """Scores on each source's val; of several, their mean and each under its name."""
        accelerator = self._accelerator
        model.eval()
        scores = []
        for pictures in self._held_out:
            indices = range(accelerator.process_index, len(pictures), accelerator.num_processes)
            matrix = torch.from_numpy(confusion_of(model, pictures, indices, self._protocol))
            total = accelerator.reduce(matrix.to(accelerator.device), reduction="sum")
            scores.append(scores_from(total.cpu().numpy()))
        values = {
            "val_mIoU": sum(score.miou for score in scores) / len(scores),
            "val_aAcc": sum(score.aacc for score in scores) / len(scores),
        }
        if len(scores) > 1:
            for source, score in zip(self._recipe.sources, scores, strict=True):
                values[f"val_mIoU of {domain_label(source, source.val)}"] = score.miou
        return values

    def _report(self, log: MetricsLog | None, step: int, values: dict[str, float]) -> None:
        if log is not None:
            log.write(step, values)
        if self._recipe.train.trackers:
            self._accelerator.log(values, step=step)


class _Meter:
    """Mean loss and pictures per second since the last reading."""

    def __init__(self, pictures_per_step: int, accelerator: Accelerator) -> None:
        self._pictures = pictures_per_step * accelerator.num_processes
        self._losses: list[torch.Tensor] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        self._since = time.perf_counter()
        self._steps = 0

    def add(self, loss: torch.Tensor) -> None:
        self._losses.append(loss)
        self._steps += 1

    def read(self, step: int) -> dict[str, float]:
        loss = torch.stack(self._losses).mean().item()
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {step + 1}: lower optimizer.lr or look at the labels"
            )
        rate = self._pictures * self._steps / max(time.perf_counter() - self._since, 1e-9)
        self._losses = []
        self.restart_clock()
        return {"loss": loss, "pictures_per_second": rate}


def _check_output(recipe: Recipe, run: Path, options: RunOptions) -> None:
    if not options.resume:
        check_output(run, options.overwrite)
        return
    before = recorded_recipe(run)
    if before is None:
        raise UserError(f"nothing to resume in {run}: it has no recipe.yaml")
    if before != recipe:
        raise UserError(f"{run} was started with another recipe: resume with {run}/recipe.yaml")


def _prepare_output(run: Path) -> None:
    """Remove what an earlier run left; nothing else in the folder is touched."""
    for name in ("checkpoints", "ema"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", METRICS_FILE):
        (run / name).unlink(missing_ok=True)
