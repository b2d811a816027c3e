"""What several commands share: options, each declared once, and how their values are read."""

import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from revt_hf.cli.naming import split_name
from revt_hf.core.errors import UserError

if TYPE_CHECKING:
    from revt_hf.config.domain_spec import DomainSpec
    from revt_hf.config.protocol import Protocol
    from revt_hf.evaluation.splits import SplitSpec

_LARGEST_SIDE = 2**15


def _silence(quiet: bool) -> bool:
    if quiet:
        logging.getLogger("revt_hf").setLevel(logging.WARNING)
    return quiet


def _writable(json_file: Path | None) -> Path | None:
    if json_file is not None:
        from revt_hf.core.outputs import check_output_file

        check_output_file(json_file)
    return json_file


_MODELS = typer.Argument(
    metavar="MODEL", help="Model folders or Hub IDs; NAME=PATH gives one a name in results."
)
Models = Annotated[list[str], _MODELS]
OptionalModels = Annotated[list[str] | None, _MODELS]
Recipe = Annotated[Path, typer.Argument(help="Training recipe (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as train.steps=100."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Hide progress bars and remarks.", callback=_silence)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write results to this file.", callback=_writable),
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the dataset.")]
Config = Annotated[str | None, typer.Option(help="Configuration of the domain.")]
DomainOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Option of the domain."),
]
Split = Annotated[str, typer.Option(help="Split of the domain.")]
Images = Annotated[
    int | None, typer.Option(min=1, help="Use at most this many images of each split.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that go through a network together.")]
Workers = Annotated[
    int,
    typer.Option(min=0, max=256, help="Processes that decode images; 0 decodes in this process."),
]


@dataclass(frozen=True)
class DataSelection:
    """The images of a command: the splits of a recipe, or one split of a domain."""

    recipe: Annotated[
        Path | None, typer.Option(help="Use the source-val and target splits of this recipe.")
    ] = None
    domain: Annotated[str | None, typer.Option(help="Use this domain instead of a recipe.")] = None
    data_dir: DataDir = None
    config: Config = None
    options: DomainOptions = None
    split: Split = "val"

    def spec(self) -> "DomainSpec":
        """The domain that is named.

        Raises:
            UserError: an option is not KEY=VALUE.
        """
        from revt_hf.config.domain_spec import DomainSpec

        return DomainSpec(
            domain=str(self.domain),
            data_dir=str(self.data_dir) if self.data_dir else None,
            config=self.config,
            options=key_values(self.options),
        )

    def splits(self) -> "list[SplitSpec]":
        """The splits that are named: source-val and targets of the recipe, or the domain's.

        Raises:
            UserError: neither or both are given, the recipe cannot be read, or an option is not
                KEY=VALUE.
        """
        if (self.recipe is None) == (self.domain is None):
            raise UserError("name what to measure on: either --domain NAME or --recipe FILE")
        from revt_hf.evaluation.splits import SplitSpec, splits_of

        if self.recipe is None:
            return [SplitSpec(self.spec(), self.split, is_source=False)]
        from revt_hf.config.recipe import load_recipe

        return splits_of(load_recipe(self.recipe))


@dataclass(frozen=True)
class ProtocolChoice:
    """The test protocol of a command."""

    protocol: Annotated[
        str | None,
        typer.Option(
            help="Test protocol: paper, native, slide or multi-scale. "
            "Default: the one the models were made for."
        ),
    ] = None
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT", help="Resize images to fit this size, or native to keep theirs."
        ),
    ] = None

    def resolve(self, models: Sequence[str | Path]) -> "Protocol":
        """The protocol of that name, else the one the models' folders record; with the max size.

        Raises:
            UserError: an unknown name, a size that cannot be read, or models that record different
                protocols.
        """
        from revt_hf.config.protocol import named_protocol
        from revt_hf.models.recorded import recorded_protocol

        changes = {} if self.max_size is None else {"max_size": parse_max_size(self.max_size)}
        if self.protocol is None:
            return recorded_protocol(models, **changes)
        try:
            return named_protocol(self.protocol).model_copy(update=changes)
        except ValueError as error:
            raise UserError(f"--protocol: {error}") from error


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses: their fields become its options.

    A parameter whose type is a dataclass is replaced by the dataclass's fields, annotated as Typer
    wants them, and gets an instance of it.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind))
            continue
        own = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            missing = field.default is dataclasses.MISSING
            default = inspect.Parameter.empty if missing else field.default
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=own[field.name],
                )
            )

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, kind in hints.items():
            if dataclasses.is_dataclass(kind):
                names = [field.name for field in dataclasses.fields(kind)]
                values[name] = kind(**{key: values.pop(key) for key in names})  # type: ignore[operator]
        function(**values)

    keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Folders or Hub IDs by the names that results give them: ``NAME=PATH`` or the path itself.

    Raises:
        UserError: a name is empty or given twice.
    """
    named: dict[str, str] = {}
    for text in models:
        given, path = split_name(text)
        name = given or path
        if name in named:
            raise UserError(f"the model {name} is listed twice: give one of them another NAME=PATH")
        named[name] = path
    return named


def parse_max_size(text: str, flag: str = "--max-size") -> tuple[int, int] | None:
    """``1024x512`` -> (1024, 512); ``native`` -> None.

    Raises:
        UserError: neither.
    """
    if text == "native":
        return None
    width, _, height = text.partition("x")
    sides = [int(side) for side in (width, height) if re.fullmatch("0*[0-9]{1,5}", side)]
    if len(sides) < 2 or not all(0 < side <= _LARGEST_SIDE for side in sides):
        raise UserError(
            f"{flag} {text}: write WIDTHxHEIGHT, such as 1024x512, up to {_LARGEST_SIDE}, or native"
        )
    return sides[0], sides[1]


def key_values(options: Sequence[str] | None) -> dict[str, object]:
    """``["size=[64, 128]"]`` -> ``{"size": [64, 128]}``; values are read as YAML.

    Raises:
        UserError: one is not KEY=VALUE, or not YAML.
    """
    from revt_hf.config.yaml_files import parse_yaml

    values = {}
    for text in options or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--option {text}: write it as key=value")
        try:
            values[key] = parse_yaml(value)
        except UserError as error:
            raise UserError(f"--option {text}: the value is not YAML ({error})") from error
    return values
