"""What a run is: a typed, validated recipe.

A recipe is a YAML file. ``extends:`` names one or several files (relative to the recipe) whose
values it starts from; nested keys are merged, everything else is replaced. ``--set a.b=c``
overrides come last. Unknown keys and wrong types are refused with their YAML path.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from revt_hf.config.protocol import Protocol, ProtocolChoice
from revt_hf.config.sections import (
    BatchSize,
    Channels,
    Count,
    CropSide,
    ExpandedPath,
    Factor,
    Layers,
    Pixels,
    Positive,
    Section,
    Seed,
    Share,
    Workers,
    validation_sentence,
)
from revt_hf.config.yaml_files import apply_override, read_with_parents
from revt_hf.core.errors import UserError

# Attention heads of the stages.
_HEADS = (1, 2, 5, 8)
# Which source each crop of a mixture is drawn from stands in memory.
_MIXED_CROPS = 10**8


class Model(Section):
    """The network and where its weights start.

    ``init`` is a Hub id (``nvidia/mit-b5``, ``repo@revision``) or a folder; without it the
    network is initialised at random. ``head: init`` keeps the decode head of those weights.
    ``batch_norm: frozen`` lets the head's BatchNorm use its running statistics and leave them as
    they are; its weight and bias still learn.
    """

    size: Literal["b0", "b1", "b2", "b3", "b4", "b5"] | None = None
    init: ExpandedPath | None = None
    head: Literal["fresh", "init"] = "fresh"
    depths: tuple[Layers, Layers, Layers, Layers] | None = None
    hidden_sizes: tuple[Channels, Channels, Channels, Channels] | None = None
    decoder_hidden_size: Channels | None = None
    drop_path: Share = 0.1
    dropout: Share = 0.1
    batch_norm: Literal["live", "frozen"] = "live"

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.init is None and self.size is None:
            raise ValueError("give a size (b0..b5) or init (a Hub id or folder)")
        if self.init is None and self.head == "init":
            raise ValueError("head: init needs model.init to take the head from")
        if self.init is not None and (self.size or self.depths or self.hidden_sizes):
            raise ValueError("the encoder's size comes from init: remove size, depths, sizes")
        if self.head == "init" and self.decoder_hidden_size:
            raise ValueError("the head's size comes from init: remove decoder_hidden_size")
        for size, heads in zip(self.hidden_sizes or (), _HEADS, strict=False):
            if size % heads:
                raise ValueError(f"hidden_sizes are multiples of {_HEADS}, not {self.hidden_sizes}")
        return self


def _option_paths(value: Any, folder: str) -> Iterator[str]:
    """Options that can be paths, such as ``split_files``, relative to a folder of data."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _option_paths(part, folder)
    elif isinstance(value, str) and (folder or os.sep in value):
        yield str(Path(folder, value.partition("{")[0]))


class DomainSpec(Section):
    """Where images come from: a registered domain, its folder, configuration and options."""

    domain: str
    data_dir: ExpandedPath | None = None
    config: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def inputs(self) -> list[str | None]:
        """What is read on this machine: no output may be there."""
        return [self.data_dir, *_option_paths(self.options, self.data_dir or "")]


class Source(DomainSpec):
    """A training domain; validation is always on its own held-out split.

    ``weight`` is its share of a mixture, relative to the other sources'. ``prepared`` is a folder
    that ``revt data prepare`` wrote: training images are read from there.
    """

    train: str = "train"
    val: str = "val"
    weight: Annotated[float, Field(gt=0, ge=1e-6, le=1e6)] = 1.0
    prepared: ExpandedPath | None = None

    @property
    def inputs(self) -> list[str | None]:
        """What is read on this machine: no output may be there."""
        return [*super().inputs, self.prepared]


class Target(DomainSpec):
    """An unseen domain: reported, never trained or selected on."""

    split: str = "val"


class Augmentation(Section):
    """One of the paper's methods 1..6, and the geometry around it.

    ``null`` for ``photometric`` and ``flip_probability`` means the method's own default.
    """

    method: int | str = 1
    max_size: tuple[Pixels, Pixels] | None = (1280, 720)
    crop: CropSide | tuple[CropSide, CropSide] | None = 512
    cat_max_ratio: Share = 0.75
    flip_probability: Share | None = None
    flip_first: bool = True
    photometric: bool | None = None
    bilateral_diameter: (
        tuple[Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(gt=0, le=255)]] | None
    ) = None
    bilateral_probability: Share = 0.5
    pixmix_k: Annotated[int, Field(ge=0, le=100)] = 4
    pixmix_beta: Annotated[float, Field(gt=0, ge=1e-3, le=1e6)] = 3.0
    mixing: ExpandedPath = "generated"
    paper_code: bool = False


class Optimizer(Section):
    """AdamW, with the decode head's learning rate multiplied."""

    lr: Annotated[float, Field(gt=0)] = 6e-5
    head_lr_factor: Factor = 10.0
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )


class Schedule(Section):
    """Polynomial decay to ``min_lr`` over all steps, with linear warm-up."""

    power: Annotated[float, Field(gt=0, le=100)] = 1.0
    min_lr: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    warmup_steps: Count = 1500
    warmup_ratio: Annotated[float, Field(gt=0, le=1)] = 1e-6


class Swad(Section):
    """Averaging over a window: :class:`revt_hf.training.weight_averages.WindowAverage`."""

    patience: Positive = 3
    overfit_patience: Positive = 6
    tolerance: Annotated[float, Field(ge=1, le=1e6)] = 1.3


class Training(Section):
    """Length, batch and bookkeeping. ``batch_size`` is per process, steps are optimizer steps.

    ``effective_batch`` is what the recipe expects ``batch_size`` x ``gradient_accumulation`` x
    processes to be: a run with another number of processes is refused.

    Next to the final weights, ``ema`` (a decay) keeps a moving average in the folder ``ema/``, and
    ``swad`` the mean over a window of steps, which source-val's loss chooses, in ``swad/``.

    For speed and memory, the results are the same up to rounding: ``folded_head`` computes the
    decode head at each stage's own resolution, ``loss_rows`` is how many rows of the labels the
    loss upsamples logits to at a time (null: all), ``compile`` is ``torch.compile``.
    """

    steps: Annotated[int, Field(gt=0, le=10**7)] = 40_000
    batch_size: BatchSize = 2
    gradient_accumulation: BatchSize = 1
    effective_batch: Positive | None = None
    seed: Seed = 0
    loss: Literal["valid", "paper_code"] = "valid"
    precision: Literal["fp32", "bf16"] = "fp32"
    folded_head: bool = False
    loss_rows: Positive | None = None
    compile: bool = False
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    swad: Swad | None = None
    workers: Workers = 4
    log_every: Positive = 50
    validate_every: Positive | None = 5000
    checkpoint_every: Positive | None = 4000
    keep_checkpoints: Positive = 1
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if self.swad is not None:
            if self.validate_every is None:
                raise ValueError("swad chooses its window by validations: set validate_every")
            validations = -(-self.steps // self.validate_every)
            if validations < self.swad.patience:
                raise ValueError(
                    f"swad.patience is {self.swad.patience} validations, but there are only "
                    f"{validations} (every {self.validate_every} of {self.steps} steps)"
                )
        return self


class Recipe(Section):
    """A whole training run; with ``more_sources`` it is trained on a mixture."""

    model: Model
    source: Source
    more_sources: tuple[Source, ...] = ()
    targets: tuple[Target, ...] = ()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Training = Training()
    evaluation: ProtocolChoice = Protocol()

    @property
    def sources(self) -> tuple[Source, ...]:
        """All training domains, ``source`` first."""
        return (self.source, *self.more_sources)

    @property
    def inputs(self) -> list[str | None]:
        """What is read on this machine: no output may be there."""
        specs = (*self.sources, *self.targets)
        return [
            self.model.init,
            None if self.augmentation.mixing == "generated" else self.augmentation.mixing,
            *(path for spec in specs for path in spec.inputs),
        ]

    @model_validator(mode="after")
    def _mixture_fits(self) -> "Recipe":
        crops = self.train.steps * self.train.batch_size * self.train.gradient_accumulation
        if self.more_sources and crops > _MIXED_CROPS:
            raise ValueError(f"a mixture has at most {_MIXED_CROPS} crops, this one has {crops}")
        return self

    @model_validator(mode="after")
    def _validates_on_source(self) -> "Recipe":
        for number, source in enumerate(self.sources):
            held_out = (source.domain, source.data_dir, source.config)
            name = f"more_sources.{number - 1}" if number else "source"
            for split, key in ((source.val, "val"), (source.train, "train")):
                for target in self.targets:
                    where = (target.domain, target.data_dir, target.config)
                    same_options = target.options == source.options
                    if (*where, target.split) == (*held_out, split) and same_options:
                        raise ValueError(
                            f"{name}.{key} is '{split}', which is also a target: "
                            "targets are never trained or selected on"
                        )
        return self

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        path: a YAML file.
        overrides: ``a.b=c`` strings; the value is read as YAML.

    Raises:
        UserError: a missing file, broken YAML, an unknown key, a wrong type or value.
    """
    values = read_with_parents(Path(path))
    for override in overrides:
        apply_override(values, override)
    return parse_recipe(values, str(path))


def parse_recipe(values: Mapping[str, Any], name: str) -> Recipe:
    """Validate recipe values; ``name`` is how messages call their origin.

    Raises:
        UserError: an unknown key, a wrong type or value.
    """
    if "members" in values:
        raise UserError(f"{name} is an experiment, not a training recipe: use revt run")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {validation_sentence(Recipe, error, '')}") from error


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file (with ``extends``), for editors."""
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "description": "Recipe files whose values this one starts from.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    # Any section may come from a parent.
    schema.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
