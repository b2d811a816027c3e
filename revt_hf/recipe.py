"""What a run is: a typed, validated recipe.

A recipe is a YAML file. ``extends:`` names one or several files (relative to the recipe) whose
values it starts from; nested keys are merged, everything else is replaced. ``--set a.b=c``
overrides come last. Unknown keys and wrong types are refused with their YAML path.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from revt_hf.errors import UserError
from revt_hf.yaml_files import apply_override, read_with_parents


def _expand(value: Any) -> Any:
    """Expand ``~`` and environment variables of a path."""
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(str(Path(value).expanduser())) if value else value
    undefined = re.search(r"\$\{?(\w+)", expanded)
    if undefined:
        raise ValueError(f"the environment variable {undefined[1]} is not set")
    return expanded


ExpandedPath = Annotated[str, BeforeValidator(_expand)]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Section):
    """The network and where its weights start.

    ``start`` is a Hub id (``nvidia/mit-b5``, ``repo@revision``) or a folder; without it the
    network is initialised at random. ``head: start`` keeps the start's decode head.
    ``batch_norm: frozen`` lets the head's BatchNorm use its running statistics and leave them as
    they are; its weight and bias still learn.
    """

    size: Literal["b0", "b1", "b2", "b3", "b4", "b5"] | None = None
    start: ExpandedPath | None = None
    head: Literal["fresh", "start"] = "fresh"
    depths: tuple[Positive, Positive, Positive, Positive] | None = None
    hidden_sizes: tuple[Positive, Positive, Positive, Positive] | None = None
    decoder_hidden_size: Positive | None = None
    drop_path: Share = 0.1
    dropout: Share = 0.1
    batch_norm: Literal["live", "frozen"] = "live"

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.start is None and self.size is None:
            raise ValueError("give a size (b0..b5) or a start (a Hub id or folder)")
        if self.start is None and self.head == "start":
            raise ValueError("head: start needs a start to take the head from")
        if self.start is not None and (self.size or self.depths or self.hidden_sizes):
            raise ValueError("the encoder's size comes from start: remove size, depths, sizes")
        if self.head == "start" and self.decoder_hidden_size:
            raise ValueError("the head's size comes from start: remove decoder_hidden_size")
        return self


def _option_paths(value: Any, folder: str) -> Iterator[str]:
    """Options that can be paths, such as ``split_files``, relative to a folder of data."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _option_paths(part, folder)
    elif isinstance(value, str) and (folder or os.sep in value):
        yield str(Path(folder, value.partition("{")[0]))


class DomainSpec(_Section):
    """Where pictures come from: a registered domain, its folder, configuration and options."""

    domain: str
    data_dir: ExpandedPath | None = None
    config: str | None = None
    options: dict[str, Any] = {}

    @property
    def inputs(self) -> list[str | None]:
        """What is read on this machine: no output may be there."""
        return [self.data_dir, *_option_paths(self.options, self.data_dir or "")]


class Source(DomainSpec):
    """A training domain; validation is always on its own held-out split.

    ``weight`` is its share of a mixture, relative to the other sources'. ``prepared`` is a folder
    that ``revt data prepare`` wrote: training pictures are read from there.
    """

    train: str = "train"
    val: str = "val"
    weight: Annotated[float, Field(gt=0)] = 1.0
    prepared: ExpandedPath | None = None

    @property
    def inputs(self) -> list[str | None]:
        """What is read on this machine: no output may be there."""
        return [*super().inputs, self.prepared]


class Target(DomainSpec):
    """An unseen domain: reported, never trained or selected on."""

    split: str = "val"


class Augmentation(_Section):
    """One of the paper's methods 1..6, and the geometry around it.

    ``null`` for ``photometric`` and ``flip_probability`` means the method's own default.
    """

    method: int | str = 1
    resize_bound: tuple[Positive, Positive] | None = (1280, 720)
    crop: Positive | tuple[Positive, Positive] | None = 512
    cat_max_ratio: Share = 0.75
    flip_probability: Share | None = None
    flip_first: bool = True
    photometric: bool | None = None
    bilateral_diameter: tuple[Annotated[int, Field(ge=0)], Positive] | None = None
    bilateral_probability: Share = 0.5
    pixmix_k: Annotated[int, Field(ge=0)] = 4
    pixmix_beta: Annotated[float, Field(gt=0)] = 3.0
    mixing: ExpandedPath = "generated"
    published: bool = False


class Optimizer(_Section):
    """AdamW, with the decode head's learning rate multiplied."""

    lr: Annotated[float, Field(gt=0)] = 6e-5
    head_lr_factor: Annotated[float, Field(gt=0)] = 10.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[Share, Share] = (0.9, 0.999)


class Schedule(_Section):
    """Polynomial decay to ``min_lr`` over all steps, with linear warm-up."""

    power: Annotated[float, Field(gt=0)] = 1.0
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 1500
    warmup_ratio: Annotated[float, Field(gt=0, le=1)] = 1e-6


class Swad(_Section):
    """Averaging over a window of steps (:class:`revt_hf.training.swad.WindowAverage`)."""

    patience: Positive = 3
    overfit_patience: Positive = 6
    tolerance: Annotated[float, Field(ge=1)] = 1.3


class Training(_Section):
    """Length, batch and bookkeeping. ``batch_size`` is per process, steps are optimizer steps.

    ``effective_batch`` is what the recipe expects ``batch_size`` x ``gradient_accumulation`` x
    processes to be: a run with another number of processes is refused.

    Next to the final weights, ``ema`` (a decay) keeps a moving average in the folder ``ema/``, and
    ``swad`` the mean over a window of steps, which source-val's loss chooses, in ``swad/``.

    For speed and memory, the results are the same up to rounding: ``folded_head`` computes the
    decode head at each stage's own resolution, ``loss_rows`` is how many rows of the labels the
    loss upsamples logits to at a time (null: all), ``compile`` is ``torch.compile``.
    """

    steps: Positive = 40_000
    batch_size: Positive = 2
    gradient_accumulation: Positive = 1
    effective_batch: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    loss: Literal["valid", "published"] = "valid"
    precision: Literal["fp32", "bf16"] = "fp32"
    folded_head: bool = False
    loss_rows: Positive | None = None
    compile: bool = False
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    swad: Swad | None = None
    workers: Annotated[int, Field(ge=0)] = 4
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


class Evaluation(_Section):
    """Test protocol: how pictures reach the network, and which views of them are averaged.

    Pictures are resized (ratio kept) to ``bound`` (width, height); null is native size. With
    ``window`` and ``stride`` (pixels) the network sees square windows of the resized picture.
    ``scales`` multiply the bound (the picture's own size without one); ``flip`` adds the mirrored
    picture: the probabilities of all views are averaged.
    """

    bound: tuple[Positive, Positive] | None = (1024, 512)
    window: Positive | None = None
    stride: Positive | None = None
    scales: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)
    ] = (1.0,)
    flip: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Evaluation":
        if (self.window is None) != (self.stride is None):
            raise ValueError("give window and stride together, or neither")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"stride {self.stride} is larger than window {self.window}: pixels between the "
                "windows would be left out"
            )
        return self


# "published" is the original's test protocol, "slide" its B3 *_org_size_inference.py, and the
# ratios are those of mmsegmentation's MultiScaleFlipAug.
PROTOCOLS = {
    "published": Evaluation(),
    "native": Evaluation(bound=None),
    "slide": Evaluation(bound=None, window=1024, stride=768),
    "multi-scale": Evaluation(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True),
}


def named_protocol(name: str) -> Evaluation:
    """The protocol of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol '{name}': use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


# A section that may also be just a protocol's name.
ProtocolChoice = Annotated[
    Evaluation,
    BeforeValidator(
        lambda value: named_protocol(value) if isinstance(value, str) else value,
        json_schema_input_type=Evaluation | Literal[*PROTOCOLS],
    ),
]


class Recipe(_Section):
    """A whole training run; with ``more_sources`` it is trained on a mixture."""

    model: Model
    source: Source
    more_sources: tuple[Source, ...] = ()
    targets: tuple[Target, ...] = ()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Training = Training()
    evaluation: ProtocolChoice = Evaluation()

    @property
    def sources(self) -> tuple[Source, ...]:
        """All training domains, ``source`` first."""
        return (self.source, *self.more_sources)

    @property
    def inputs(self) -> list[str | None]:
        """What is read on this machine: no output may be there."""
        specs = (*self.sources, *self.targets)
        return [
            self.model.start,
            None if self.augmentation.mixing == "generated" else self.augmentation.mixing,
            *(path for spec in specs for path in spec.inputs),
        ]

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
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {_first_problem(error)}") from error


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


def validation_sentence(model: type[BaseModel], error: ValidationError, prefix: str) -> str:
    """One sentence for the first problem of a pydantic error, its YAML path led by ``prefix``."""
    return _first_problem(error, prefix, model)


def _first_problem(
    error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None
) -> str:
    # An unknown key explains more than the missing one that it leaves behind.
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = ".".join(part for part in (prefix, *map(str, problem["loc"])) if part)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model or Recipe, problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key ({hint})"
    if problem["type"] == "missing":
        return f"{path}: required, but not given"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message[0].lower()}{message[1:]}, not {problem['input']!r}"


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The keys known at a place of a nested model; none if what stands there is no model."""
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            # A place in a list, a key of a mapping, or a branch of a union.
            continue
        inner = _model_in(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of an annotation such as ``tuple[Target, ...]`` or ``dict[str, Member]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
