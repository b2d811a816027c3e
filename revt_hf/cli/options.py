"""What several commands share: options, each declared once, and how their values are read."""

import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_type_hints

import typer

from revt_hf.cli.merge import split_names
from revt_hf.core.errors import UserError, say
from revt_hf.core.outputs import InputPath, check_output_file, write_json

if TYPE_CHECKING:
    from revt_hf.config.protocol import Protocol
    from revt_hf.config.recipe import DomainSpec, Recipe, Source
    from revt_hf.data.class_mapping import ClassMapping
    from revt_hf.evaluation.result import SplitSpec

_LARGEST_SIDE = 2**15


class Bounds(NamedTuple):
    least: int | None = None
    largest: int | None = None


def _silence(quiet: bool) -> bool:
    if quiet:
        logging.getLogger("revt_hf").setLevel(logging.WARNING)
    return quiet


def _writable(json_file: Path | None) -> Path | None:
    check_output_file(json_file)
    return json_file


_MODELS = typer.Argument(
    metavar="MODEL", help="Model folders or Hub IDs; NAME=PATH gives one a name in results."
)
Models = Annotated[list[str], _MODELS]
OptionalModels = Annotated[list[str] | None, _MODELS]
RecipeFile = Annotated[Path, typer.Argument(help="Training recipe (YAML).")]
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
Split = Annotated[str, "Split of the domain."]
Images = Annotated[int | None, Bounds(1), "Use at most this many images of each split."]
MapFile = Annotated[
    str | None,
    "--map FILE",
    "Map the models' classes to other ones: ade20k, mapillary65 or a YAML file.",
]
BatchSize = Annotated[int, Bounds(1), "Images that go through a network together."]
Workers = Annotated[int, Bounds(0, 256), "Processes that decode images; 0 decodes in this process."]


@dataclass(frozen=True)
class OutputOptions:
    """Where results go besides standard output."""

    json_file: Json = None
    quiet: Quiet = False

    def check(self, inputs: Iterable[InputPath], outputs: Iterable[InputPath] = ()) -> None:
        """Refuse a JSON file that would replace an input or another output."""
        check_output_file(self.json_file, inputs=inputs, outputs=outputs)

    def finish(
        self,
        result: Any,
        lines: Sequence[str] = (),
        remark: str = "",
        write: Callable[[Path, Any], None] = write_json,
    ) -> None:
        """Write results, then print lines and, unless quiet, a remark."""
        # Printing comes last: it fails if nobody reads standard output.
        if self.json_file is not None:
            write(self.json_file, result)
        for line in (*lines, *([remark] if remark and not self.quiet else [])):
            say(line)


@dataclass(frozen=True)
class OverwriteOptions(OutputOptions):
    """The same for a command with another output."""

    overwrite: Overwrite = False


# Options that say which images of one domain: a recipe says that itself.
_OF_A_DOMAIN = {
    "data_dir": "--data-dir",
    "config": "--config",
    "options": "--option",
    "split": "--split",
    "val": "--val",
}


@dataclass(frozen=True)
class DomainOptions:
    """Where the images of a domain are, and its variants."""

    data_dir: Annotated[Path | None, "DIR", "Folder of the dataset."] = None
    config: Annotated[str | None, "Configuration of the domain."] = None
    options: Annotated[list[str] | None, "--option KEY=VALUE", "Option of the domain."] = None

    def spec(self, domain: str) -> "DomainSpec":
        from revt_hf.config.recipe import DomainSpec

        folder, options = str(self.data_dir) if self.data_dir else None, key_values(self.options)
        return DomainSpec(domain=domain, data_dir=folder, config=self.config, options=options)


@dataclass(frozen=True)
class DataOptions(DomainOptions):
    """The images of a command: the splits of a recipe, or one split of a domain."""

    recipe: Annotated[Path | None, "Use the source-val and target splits of this recipe."] = None
    domain: Annotated[str | None, "Use this domain instead of a recipe."] = None
    split: Split = "val"

    def splits(self) -> "list[SplitSpec]":
        """The splits that are named: source-val and targets of the recipe, or the domain's."""
        from revt_hf.config.recipe import DomainSpec
        from revt_hf.evaluation.result import SplitSpec, splits_of

        chosen = self._chosen("name what to measure on: either --domain NAME or --recipe FILE")
        if isinstance(chosen, DomainSpec):
            return [SplitSpec(chosen, self.split, is_source=False)]
        return splits_of(chosen)

    def sources(self, train: str, val: str) -> "Sequence[Source]":
        """The sources of the recipe, or the domain with these splits."""
        from revt_hf.config.recipe import DomainSpec, Source

        where = "say where the source images are: either --recipe FILE or --domain NAME"
        chosen = self._chosen(where)
        if isinstance(chosen, DomainSpec):
            return [Source(**chosen.model_dump(), train=train, val=val)]
        return chosen.sources

    def _chosen(self, problem: str) -> "DomainSpec | Recipe":
        from revt_hf.config.recipe import load_recipe

        if self.domain is not None and self.recipe is None:
            return self.spec(self.domain)
        if self.domain is None and self.recipe is not None:
            for field in dataclasses.fields(self):
                if field.name in _OF_A_DOMAIN and getattr(self, field.name) != field.default:
                    flag = _OF_A_DOMAIN[field.name]
                    raise UserError(f"{flag} goes with --domain: {self.recipe} names its own data")
            return load_recipe(self.recipe)
        raise UserError(problem)


@dataclass(frozen=True)
class ProtocolOptions:
    protocol: Annotated[
        str | None,
        "Test protocol: paper, native, slide or multi-scale. "
        "Default: the one the models were made for.",
    ] = None
    max_size: Annotated[
        str | None, "WIDTHxHEIGHT", "Resize images to fit this size, or native to keep theirs."
    ] = None
    window: Annotated[
        int | None,
        "PIXELS",
        Bounds(32, _LARGEST_SIDE),
        "Run the network on square windows of this side; neighbours overlap by a quarter.",
    ] = None

    def resolve(self, models: Iterable[str | Path]) -> "Protocol":
        """The protocol of that name, else the one the models' folders record; with the options."""
        from revt_hf.config.protocol import named_protocol
        from revt_hf.models.recorded import recorded_protocol

        changes: dict[str, Any] = {}
        if self.max_size is not None:
            changes["max_size"] = parse_max_size(self.max_size)
        if self.window is not None:
            # As much as those of the protocol "slide".
            changes |= {"window": self.window, "stride": self.window * 3 // 4}
        if self.protocol is None:
            return recorded_protocol(list(models), **changes)
        try:
            return named_protocol(self.protocol).model_copy(update=changes)
        except ValueError as error:
            raise UserError(f"--protocol: {error}") from error


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command declare options briefly; fields of a dataclass become options, too.

    ``Annotated[int, "--number COUNT", Bounds(1), "Help text."]``: flag, metavar and bounds only
    where they are not the usual ones.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if dataclasses.is_dataclass(kind):
            own = get_type_hints(kind, include_extras=True)
            given = inspect.signature(kind).parameters.values()  # type: ignore[arg-type]
            parameters += [_parameter(one, own[one.name]) for one in given]
        else:
            parameters.append(_parameter(parameter, kind))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, kind in hints.items():
            if dataclasses.is_dataclass(kind):
                names = [field.name for field in dataclasses.fields(kind)]
                values[name] = kind(**{key: values.pop(key) for key in names})  # type: ignore[operator]
        function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _parameter(parameter: inspect.Parameter, annotation: Any) -> inspect.Parameter:
    """The parameter as typer wants it; a flag has no opposite."""
    kind, *details = get_args(annotation)
    if isinstance(details[-1], str):
        flags = [f"--{parameter.name.replace('_', '-')}"] if kind is bool else []
        annotation = Annotated[kind, _option(*flags, *details)]
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


@functools.cache
def _option(*details: str | Bounds) -> Any:
    """The option of such an annotation; the same object for the same annotation."""
    *usage, text = details
    words = " ".join(detail for detail in usage if isinstance(detail, str)).split()
    flags = [word for word in words if word.startswith("--")][-1:]
    metavar = next((word for word in words if not word.startswith("--")), None)
    bounds = next((detail for detail in usage if isinstance(detail, Bounds)), Bounds())
    return typer.Option(
        *flags, metavar=metavar, min=bounds.least, max=bounds.largest, help=str(text)
    )


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Folders or Hub IDs by the names that results give them: ``NAME=PATH`` or the path itself."""
    return {name or path: path for name, path in split_names(models)}


def read_map(map_file: str | None) -> "ClassMapping | None":
    from revt_hf.data.class_mapping import read_mapping

    return None if map_file is None else read_mapping(map_file)


def parse_max_size(text: str, flag: str = "--max-size") -> tuple[int, int] | None:
    """``1024x512`` -> (1024, 512); ``native`` -> None."""
    if text == "native":
        return None
    found = re.fullmatch("0*([0-9]{1,5})x0*([0-9]{1,5})", text)
    sides = [int(side) for side in found.groups()] if found else [0]
    if not all(0 < side <= _LARGEST_SIDE for side in sides):
        raise UserError(
            f"{flag} {text}: write WIDTHxHEIGHT, such as 1024x512, up to {_LARGEST_SIDE}, or native"
        )
    return sides[0], sides[1]


def key_values(options: Sequence[str] | None) -> dict[str, object]:
    """``["size=[64, 128]"]`` -> ``{"size": [64, 128]}``; values are read as YAML."""
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
