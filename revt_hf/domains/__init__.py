"""Where pictures come from: every domain a ``datasets`` builder, behind one registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from pydantic import BaseModel, ValidationError

from revt_hf.domains.base import Domain
from revt_hf.domains.folder import FolderDomain
from revt_hf.domains.reading import Decode
from revt_hf.domains.streets.builder import StreetsDomain
from revt_hf.errors import UserError
from revt_hf.recipe import DomainSpec, validation_sentence

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (FolderDomain(), StreetsDomain())}


def get_domain(name: str) -> Domain:
    """A registered domain.

    Raises:
        UserError: there is none of that name.
    """
    if name not in DOMAINS:
        raise UserError(f"unknown domain '{name}': use one of {', '.join(sorted(DOMAINS))}")
    return DOMAINS[name]


def load_domain(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    config: str | None = None,
    options: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.Dataset:
    """One split of a domain, with labels as train ids.

    Each row has ``image`` (H, W, 3) uint8 RGB, ``label`` (H, W) uint8 with 0..18 and 255
    (ignored), and ``name``. The Arrow table underneath holds paths (``folder``) or PNG bytes
    (``streets``); ``reset_format()`` shows it.

    Raises:
        UserError: unknown domain, option or split; missing or incomplete data.
    """
    domain = get_domain(name)
    settings = _options(domain, options or {})
    folder = Path(data_dir) if data_dir is not None else None
    if folder is not None and not domain.needs_data_dir:
        raise UserError(f"the domain '{name}' is built in: it takes no data_dir")
    table = domain.table(settings)
    builder = domain.builder(
        split, folder, config, settings, cache_dir=str(cache_dir) if cache_dir else None
    )
    datasets.disable_progress_bars()
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise
    return builder.as_dataset(split=split).with_transform(Decode(table))


def load_spec(spec: DomainSpec, split: str) -> datasets.Dataset:
    """One split of the domain that a recipe names; see :func:`load_domain`."""
    return load_domain(spec.domain, split, spec.data_dir, spec.config, spec.options)


def domain_label(spec: DomainSpec, split: str) -> str:
    """A short name of a split for tables and reports."""
    folder = Path(spec.data_dir) if spec.data_dir else None
    return get_domain(spec.domain).label(split, folder, spec.config)


def _options(domain: Domain, options: Mapping[str, Any]) -> BaseModel:
    try:
        return domain.options_model.model_validate(dict(options))
    except ValidationError as error:
        where = f"options of the domain '{domain.name}'"
        raise UserError(
            f"{where}: {validation_sentence(domain.options_model, error, 'options')}"
        ) from error
