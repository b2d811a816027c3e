"""The registry of domains, and loading their splits: from the source, or from a prepared folder."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import datasets
from pydantic import BaseModel

from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains.base import Domain, Given, Opened, arrow_split, checked_options
from revt_hf.data.label_space import LabelSpace
from revt_hf.data.reading import Decode

TO_DO = "set HF_DATASETS_CACHE to a folder that can be written"


class _Registry(Mapping[str, Domain]):
    """Domains by name; entry points are loaded for an unknown name or a list, not before."""

    def __init__(self, registered: Mapping[str, Domain] | None = None) -> None:
        self.registered = dict(registered or {})

    @cached_property
    def _complete(self) -> dict[str, Domain]:
        for entry in entry_points(group="revt_hf.domains"):
            try:
                found = entry.load()
                # A module registers its domains itself while it is imported.
                if not isinstance(found, ModuleType):
                    register_domain(found)
            # A broken package must not keep the others from working.
            except Exception as error:  # noqa: BLE001
                sentence = f"cannot load the domain {entry.name} from {entry.value}: {error}"
                warnings.warn(sentence, DataWarning, stacklevel=2)
        return self.registered

    def __getitem__(self, name: str) -> Domain:
        return self.registered[name] if name in self.registered else self._complete[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._complete))

    def __len__(self) -> int:
        return len(self._complete)


DOMAINS = _Registry()
DomainClass = TypeVar("DomainClass", bound=type[Domain])


def register_domain(domain: DomainClass) -> DomainClass:
    """Class decorator that makes a :class:`Domain` available under its ``name``.

    Raises:
        UserError: another class is registered under that name.
    """
    known = DOMAINS.registered.get(domain.name)
    origin = f"{type(known).__module__}.{type(known).__qualname__}"
    # The same class may be defined again, as in a notebook.
    if known is not None and origin != f"{domain.__module__}.{domain.__qualname__}":
        raise UserError(f"the domain '{domain.name}' exists already ({origin}): rename yours")
    DOMAINS.registered[domain.name] = domain()
    return domain


def get_domain(name: str) -> Domain:
    """A registered domain; an unknown name is refused with the known ones."""
    if name not in DOMAINS:
        raise UserError(f"unknown domain '{name}': use one of {', '.join(DOMAINS)}")
    return DOMAINS[name]


def open_domain(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    config: str | None = None,
    options: Given | None = None,
) -> Opened:
    """Find one split without reading an image; arguments as for :func:`load_domain`."""
    domain, folder, chosen, settings = checked_domain(name, data_dir, config, options or {})
    return domain.open(split, folder, chosen, settings)


def checked_domain(
    name: str, data_dir: str | Path | None, config: str | None, options: Given
) -> tuple[Domain, Path | None, str | None, BaseModel]:
    """A domain with its folder, config and options, validated and with their defaults."""
    domain = get_domain(name)
    if data_dir is not None and not domain.needs_data_dir:
        raise UserError(f"the domain '{name}' is built in: it takes no data_dir")
    folder = None if data_dir is None else Path(data_dir)
    return domain, folder, domain.chosen_config(config), checked_options(domain, options)


def load_domain(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    config: str | None = None,
    options: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
) -> Any:
    """Load one split of a domain, with labels as train ids.

    Each row has ``image`` (H, W, 3) uint8 RGB, ``label`` (H, W) uint8 with 0..18 and 255
    (ignored), and ``name``. The Arrow table underneath holds paths (PNG bytes for ``streets``);
    ``reset_format()`` shows it.

    Args:
        name: of the domain; ``revt data list`` shows all.
        split: such as ``train`` or ``val``.
        data_dir: the folder of its data, in any layout that the domain supports.
        config: a variant of the domain, such as ``night`` of ``acdc``; default: its first.
        options: of the domain, such as ``{"split": "robustnet"}`` of ``gta5``.
        cache_dir: where ``datasets`` keeps the table; default: its own cache.
        num_proc: processes that build the table.
        streaming: return a ``datasets.IterableDataset``, which builds no table at all.

    Returns:
        A ``datasets.Dataset`` (or ``IterableDataset``).

    Raises:
        UserError: unknown domain, config, option or split; missing or incomplete data.
    """
    opened = open_domain(name, split, data_dir, config, options)
    opened.check(f"{name}/{split}")
    return dataset_of(opened.builder, opened.decode, split, cache_dir, num_proc, streaming)


def dataset_of(
    make_builder: Callable[..., datasets.DatasetBuilder],
    decode: Decode,
    split: str,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
) -> Any:
    """A builder's images, decoded when read; without a usable cache, warns and builds in memory."""
    if streaming:
        try:
            builder = make_builder(cache_dir=str(cache_dir) if cache_dir else None)
        except (OSError, ValueError) as error:
            raise UserError(f"the datasets cache cannot be used ({error}): {TO_DO}") from error
        rows = builder.as_streaming_dataset(split=arrow_split(split))
        return rows.map(decode, batched=True, batch_size=1)
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
    try:
        return _table(make_builder, split, cache, num_proc).with_transform(decode)
    except UserError:
        raise
    # pyarrow, json and the file system raise anything for a damaged cache.
    except Exception as error:  # noqa: BLE001
        reason = str(error).partition("\n")[0] or type(error).__name__
    problem = f"the datasets cache {cache} cannot be used ({reason})"
    try:
        with tempfile.TemporaryDirectory(prefix="revt-hf-") as scratch:
            table = _table(make_builder, split, Path(scratch), num_proc, in_memory=True)
    except OSError as error:
        raise UserError(
            f"{problem}, nor can a temporary folder ({error.strerror or error}): set "
            "HF_DATASETS_CACHE or TMPDIR to a folder that can be written"
        ) from error
    sentence = f"the table of '{split}' is built in memory; empty that folder, or {TO_DO}"
    warnings.warn(f"{problem}: {sentence}", DataWarning, stacklevel=2)
    return table.with_transform(decode)


def _table(
    make_builder: Callable[..., datasets.DatasetBuilder],
    split: str,
    cache: Path,
    num_proc: int | None,
    in_memory: bool = False,
) -> datasets.Dataset:
    name, already = arrow_split(split), datasets.are_progress_bars_disabled()
    # Tables of paths are built too quickly for progress bars; the caller's setting is restored.
    datasets.disable_progress_bars()
    try:
        builder = make_builder(cache_dir=str(cache))
        builder.download_and_prepare(num_proc=num_proc)
        table = builder.as_dataset(split=name, in_memory=in_memory)
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from error
    finally:
        if not already:
            datasets.enable_progress_bars()
    if len(table) != builder.info.splits[name].num_examples:
        raise ValueError(f"its table of '{split}' is not complete")
    # Damaged bytes must fail here, not in the middle of a training.
    table.data.validate(full=True)
    return table


def label_encoding(images: Any) -> str | None:
    """The name of the label table that a loaded split is read with; None for other rows."""
    transform = decode_of(images)
    return None if transform is None else transform.table.name


def decode_of(images: Any) -> Decode | None:
    """The transform that decodes a loaded split; None for other rows."""
    form = getattr(images, "format", None) or {"format_kwargs": {}}
    found = form["format_kwargs"].get("transform")
    return found if isinstance(found, Decode) else None


def space_of_images(images: Any) -> LabelSpace | None:
    """The classes that a loaded split is labelled with; None for other rows."""
    transform = decode_of(images)
    return None if transform is None else transform.table.space


def in_space(images: Any, space: LabelSpace, name: str) -> Any:
    """A loaded split by the class ids of ``space``; refused if its classes are other ones.

    Other rows are returned as they are: their ids are those of the model that they are for.
    """
    transform = decode_of(images)
    if transform is None or transform.table.space == space:
        return images
    space.rows(transform.table.space.classes, name)
    return images.with_transform(replace(transform, table=transform.table.in_space(space)))


def load_spec(spec: DomainSpec, split: str) -> datasets.Dataset:
    """Load one split of the domain that a recipe names; see :func:`load_domain`."""
    return load_domain(spec.domain, split, spec.data_dir, spec.config, spec.options)


def space_of_spec(spec: DomainSpec) -> LabelSpace:
    """The classes of the domain that a recipe names."""
    domain, _, _, options = checked_domain(spec.domain, None, spec.config, spec.options)
    return domain.space(options)


def domain_label(spec: DomainSpec, split: str) -> str:
    """A short name of a split for tables and reports."""
    folder = Path(spec.data_dir) if spec.data_dir else None
    return get_domain(spec.domain).label(split, folder, spec.config, spec.options)
