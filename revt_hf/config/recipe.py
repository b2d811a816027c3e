"""Training recipes: typed, validated YAML files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from revt_hf.config.network import Adapter, Model
from revt_hf.config.protocol import Protocol, ProtocolChoice
from revt_hf.config.yaml_files import (
    BatchSize,
    CropSide,
    ExpandedPath,
    Pixels,
    Positive,
    Section,
    Seed,
    Share,
    Workers,
    read_with_parents,
    validated,
)
from revt_hf.core.errors import UserError

_Beta = Annotated[float, Field(ge=0, lt=1)]
# The source of every crop of a mixture is kept in memory.
_MIXED_CROPS = 10**8


def _option_paths(value: Any, folder: str) -> Iterator[str]:
    """Options that may be paths, such as ``split_files``, relative to a data folder."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _option_paths(part, folder)
    elif isinstance(value, str) and (folder or os.sep in value):
        yield str(Path(folder, value.partition("{")[0]))


class DomainSpec(Section):
    """A registered domain with its folder, configuration and options."""

    domain: str
    data_dir: ExpandedPath | None = None
    config: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def inputs(self) -> list[str | None]:
        """Local paths that are read, where no output may be written."""
        return [self.data_dir, *_option_paths(self.options, self.data_dir or "")]


class Source(DomainSpec):
    """A training domain; validation always uses its own held-out split.

    ``weight`` is its share of a mixture. Training images are read from ``prepared``, a folder
    written by ``revt data prepare``, if given.
    """

    train: str = "train"
    val: str = "val"
    weight: Annotated[float, Field(gt=0, ge=1e-6, le=1e6)] = 1.0
    prepared: ExpandedPath | None = None

    @property
    def inputs(self) -> list[str | None]:
        return [*super().inputs, self.prepared]


class Target(DomainSpec):
    """An unseen domain: reported, never trained or selected on."""

    split: str = "val"


class Augmentation(Section):
    """One of the paper's methods 1..6, and the geometric augmentation around it.

    ``null`` for ``photometric`` and ``flip_probability`` selects the method's default.
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
    """AdamW, with a multiple of the learning rate for the decode head."""

    lr: Annotated[float, Field(gt=0)] = 6e-5
    head_lr_factor: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.01
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)


class Schedule(Section):
    """Polynomial decay to ``min_lr`` over all steps, with linear warm-up."""

    power: Annotated[float, Field(gt=0, le=100)] = 1.0
    min_lr: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 1500
    warmup_ratio: Annotated[float, Field(gt=0, le=1)] = 1e-6


class Swad(Section):
    """Averaging over a window: :class:`revt_hf.training.optim.WindowAverage`."""

    patience: Positive = 3
    overfit_patience: Positive = 6
    tolerance: Annotated[float, Field(ge=1, le=1e6)] = 1.3


class RareClasses(Section):
    """Rare class sampling (DAFormer, Hoyer et al., CVPR 2022).

    Each training image is drawn by a class: class c, whose share of the labelled pixels is f_c,
    with a probability proportional to exp((1 - f_c) / ``temperature``), and then any image that has
    ``min_pixels`` of it, resized to ``augmentation.max_size``. The crop is drawn again, ten times
    at most, until it has ``min_crop_ratio`` times ``min_pixels``.
    """

    temperature: Annotated[float, Field(gt=0, ge=1e-6, le=1e6)] = 0.01
    min_pixels: Positive = 3000
    min_crop_ratio: Share = 0.5


class Training(Section):
    """Length, batch size and bookkeeping.

    ``batch_size`` is per process; steps are optimizer steps. A run is refused unless ``batch_size``
    times ``gradient_accumulation`` times the number of processes is ``effective_batch``.
    ``rare_classes`` draws images by the classes in them, in each source apart.
    ``ema`` (a decay) and ``swad`` save averages of the weights in folders of these names.
    These change results only by rounding: ``folded_head`` computes the decode head at each stage's
    own resolution, ``loss_rows`` is the number of label rows for which the loss upsamples logits at
    a time (null: all), ``compile`` uses ``torch.compile``.
    """

    steps: Annotated[int, Field(gt=0, le=10**7)] = 40_000
    batch_size: BatchSize = 2
    gradient_accumulation: BatchSize = 1
    effective_batch: Positive | None = None
    seed: Seed = 0
    rare_classes: RareClasses | None = None
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
        if self.swad is None:
            return self
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
    """A whole training run; ``more_sources`` makes it train on a mixture."""

    model: Model
    adapter: Adapter | None = None
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
        return (self.source, *self.more_sources)

    @property
    def inputs(self) -> list[str | None]:
        """Local paths that are read, where no output may be written."""
        mixing = self.augmentation.mixing
        specs = (*self.sources, *self.targets)
        read = [path for spec in specs for path in spec.inputs]
        return [self.model.init, None if mixing == "generated" else mixing, *read]

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.adapter and self.model.init is None:
            raise ValueError("adapter: random weights cannot be adapted: give model.init")
        if self.adapter and (self.train.ema or self.train.swad):
            raise ValueError(
                "train.ema and train.swad average an adapter's factors apart, which is not the "
                "average of the networks: remove them or adapter"
            )
        crops = self.train.steps * self.train.batch_size * self.train.gradient_accumulation
        if self.more_sources and crops > _MIXED_CROPS:
            raise ValueError(f"a mixture has at most {_MIXED_CROPS} crops, this one has {crops}")
        fields = set(DomainSpec.model_fields)
        targets = [(one.split, one.model_dump(include=fields)) for one in self.targets]
        for number, source in enumerate(self.sources):
            name = f"more_sources.{number - 1}" if number else "source"
            data = source.model_dump(include=fields)
            for key, split in (("val", source.val), ("train", source.train)):
                if (split, data) in targets:
                    raise ValueError(
                        f"{name}.{key} is '{split}', which is also a target: targets are never "
                        "trained or selected on"
                    )
        return self

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    ``extends:`` names one or several files, relative to the recipe, whose values are inherited:
    nested keys are merged, everything else is replaced.

    Args:
        path: a YAML file.
        overrides: ``a.b=c`` strings, applied last; the value is read as YAML.

    Raises:
        UserError: a missing file, broken YAML, an unknown key, a wrong type or value.
    """
    return parse_recipe(read_with_parents(Path(path), overrides), str(path))


def parse_recipe(values: Mapping[str, Any], name: str) -> Recipe:
    """Validate the values of a recipe; ``name`` is what messages call their origin."""
    if "members" in values:
        raise UserError(f"{name} is an experiment, not a training recipe: use revt run")
    return validated(Recipe, values, name)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, with ``extends``."""
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "description": "Recipe files whose values this one inherits.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    # Every section may come from a parent.
    schema.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
