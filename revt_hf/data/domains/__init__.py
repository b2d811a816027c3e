"""Where images come from: every domain a ``datasets`` builder, behind one registry."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets

from revt_hf.config.domain_spec import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.data.domains.acdc import AcdcDomain
from revt_hf.data.domains.base import Domain, Opened, arrow_split
from revt_hf.data.domains.base import checked_options as checked_options
from revt_hf.data.domains.bdd100k import Bdd100kDomain
from revt_hf.data.domains.camvid import CamvidDomain
from revt_hf.data.domains.cityscapes import CityscapesDomain
from revt_hf.data.domains.corruptions import CorruptionsDomain
from revt_hf.data.domains.folder import FolderDomain
from revt_hf.data.domains.gta5 import Gta5Domain
from revt_hf.data.domains.idd import IddDomain
from revt_hf.data.domains.kitti2015 import Kitti2015Domain
from revt_hf.data.domains.mapillary import MapillaryDomain
from revt_hf.data.domains.streets.builder import StreetsDomain
from revt_hf.data.domains.synthia import SynthiaDomain
from revt_hf.data.domains.table import table_of
from revt_hf.data.domains.wilddash import WilddashDomain
from revt_hf.data.reading import Decode

DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Gta5Domain(),
        SynthiaDomain(),
        CityscapesDomain(),
        Bdd100kDomain(),
        MapillaryDomain(),
        AcdcDomain(),
        Kitti2015Domain(),
        CamvidDomain(),
        WilddashDomain(),
        IddDomain(),
        FolderDomain(),
        StreetsDomain(),
    )
}
DOMAINS[CorruptionsDomain.name] = CorruptionsDomain(dict(DOMAINS))


def get_domain(name: str) -> Domain:
    """A registered domain.

    Raises:
        UserError: there is none of that name.
    """
    if name not in DOMAINS:
        raise UserError(f"unknown domain '{name}': use one of {', '.join(sorted(DOMAINS))}")
    return DOMAINS[name]


def open_domain(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    config: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Opened:
    """Find one split of a domain, without reading an image.

    Raises:
        UserError: unknown domain, config, option or split; data that are not there.
    """
    domain = get_domain(name)
    folder = Path(data_dir) if data_dir is not None else None
    if folder is not None and not domain.needs_data_dir:
        raise UserError(f"the domain '{name}' is built in: it takes no data_dir")
    settings = checked_options(domain, options or {})
    return domain.open(split, folder, domain.chosen_config(config), settings)


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
    """One split of a domain, with labels as train ids.

    Each row has ``image`` (H, W, 3) uint8 RGB, ``label`` (H, W) uint8 with 0..18 and 255
    (ignored), and ``name``. The Arrow table underneath holds paths (PNG bytes for ``streets``);
    ``reset_format()`` shows it.

    Args:
        name: of the domain.
        split: such as ``train`` or ``val``.
        data_dir: the folder of its data, in any layout that the domain knows.
        config: such as ``night`` of ``acdc``.
        options: of the domain.
        cache_dir: where ``datasets`` keeps the table; its own default otherwise.
        num_proc: processes that build the table.
        streaming: give a ``datasets.IterableDataset`` that builds no table at all.

    Returns:
        A ``datasets.Dataset`` (or ``IterableDataset``).

    Raises:
        UserError: unknown domain, option or split; missing or incomplete data.
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
    """The images that a builder lists, decoded when they are read; see :func:`load_domain`."""
    if streaming:
        try:
            builder = make_builder(cache_dir=str(cache_dir) if cache_dir else None)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the datasets cache cannot be used ({error}): set HF_DATASETS_CACHE to a folder "
                "that can be written"
            ) from error
        rows = builder.as_streaming_dataset(split=arrow_split(split))
        return rows.map(decode, batched=True, batch_size=1)
    return table_of(make_builder, split, cache_dir, num_proc).with_transform(decode)


def label_encoding(images: Any) -> str | None:
    """The name of the label table that a loaded split is read with; None for other rows."""
    form = getattr(images, "format", None) or {"format_kwargs": {}}
    transform = form["format_kwargs"].get("transform")
    return transform.table.name if isinstance(transform, Decode) else None


def load_spec(spec: DomainSpec, split: str) -> datasets.Dataset:
    """One split of the domain that a recipe names; see :func:`load_domain`."""
    return load_domain(spec.domain, split, spec.data_dir, spec.config, spec.options)


def domain_label(spec: DomainSpec, split: str) -> str:
    """A short name of a split for tables and reports."""
    folder = Path(spec.data_dir) if spec.data_dir else None
    return get_domain(spec.domain).label(split, folder, spec.config, spec.options)
