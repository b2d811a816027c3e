"""Export a domain as a Hub dataset (parquet and a card), if its license allows it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData
from tqdm import tqdm

from revt_hf import __version__
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import MARKER_FILE
from revt_hf.core.outputs import atomic_folder, check_output, write_text
from revt_hf.data import domains
from revt_hf.data.decoding import RAW_SUFFIX, encode_png, open_image
from revt_hf.data.domains import Domain, Opened
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX
from revt_hf.data.parallel import in_threads
from revt_hf.data.reading import Decode, fit_size
from revt_hf.hub import commit
from revt_hf.hub.cards import license_metadata, render_card
from revt_hf.results.markdown import yaml_text

SHARD_BYTES = 500_000_000
# A reader holds one row group at a time.
ROW_GROUP_BYTES = 50_000_000
_FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.Image(), "name": datasets.Value("string")}
)
_DATA = "data"
Row = dict[str, Any]
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
# Upper ends of the Hub's size categories.
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


@dataclass(frozen=True)
class ExportOptions:
    """How to export and push; an earlier push from here is replaced."""

    max_size: tuple[int, int] | None = None
    license: str | None = None
    push: str | None = None
    private: bool = False
    overwrite: bool = False
    quiet: bool = False


def export_parquet(
    spec: DomainSpec, splits: Sequence[str], output: Path, options: ExportOptions = ExportOptions()
) -> Path:
    """Write splits of a domain as a folder of parquet files and a card, for ``datasets``."""
    domain = domains.get_domain(spec.domain)
    check_sharing(domain, options.license)
    if options.push is not None:
        commit.check_repo_id(options.push, "dataset")
        commit.require_token()
    elif options.private:
        raise UserError("--private is for a Hub dataset: name one with --push")
    if not splits:
        raise UserError("name at least one split to export")
    for name in splits:
        if not _SPLIT_NAME.fullmatch(name):
            raise UserError(
                f"the split '{name}' cannot be exported: use letters, digits, _ and . in its name"
            )
    if options.max_size is not None:
        fit_size(1, 1, options.max_size)
    check_output(output, options.overwrite, spec.inputs)
    opened = {
        name: domains.open_domain(spec.domain, name, spec.data_dir, spec.config, spec.options)
        for name in splits
    }
    for name, found in opened.items():
        found.check(f"{spec.domain}/{name}")
    config = domain.chosen_config(spec.config)
    chosen = domains.checked_options(domain, spec.options).model_dump()
    how = (options.max_size, options.license, options.push)
    with atomic_folder(output, options.overwrite, spec.inputs) as scratch:
        (scratch / _DATA).mkdir()
        for name, found in opened.items():
            images = domains.dataset_of(found.builder, found.decode, name).with_format(None)
            rows = in_threads(partial(_encoded, found.decode, options.max_size), images)
            bar = tqdm(rows, f"export {name}", len(images), unit="image", disable=options.quiet)
            _write_split(bar, scratch / _DATA, name)
        write_text(scratch / commit.CARD_FILE, card_text(domain, config, chosen, opened, *how))
    if options.push is not None:
        _push(output, options.push, options)
    return output


def check_sharing(domain: Domain, license: str | None) -> None:
    """Refuse to copy data that may not be passed on, or whose license nobody has named."""
    sharing = domain.facts.sharing
    if sharing.allowed == "no":
        raise UserError(f"{domain.name} may not be passed on: {sharing.reason}")
    named = "".join((license or "").split()).casefold()
    if domain.facts.kind == "any":
        if not named:
            raise UserError(f"{domain.name}: {sharing.reason}: name it with --license '...'")
        return
    right = domain.facts.license.split(" (")[0]
    if named and named != "".join(right.split()).casefold():
        given = (license or "").strip()
        raise UserError(f"the license of {domain.name} is '{right}', not '{given}'")
    if not named and sharing.allowed == "confirm":
        raise UserError(
            f"{domain.name}: {sharing.reason}: read the license, then confirm it with "
            f"--license '{right}'"
        )


def card_text(
    domain: Domain,
    config: str | None,
    options: Mapping[str, Any],
    splits: Mapping[str, Opened],
    max_size: tuple[int, int] | None,
    license: str | None,
    repository: str | None,
) -> str:
    """The text of ``README.md``, with metadata for the Hub and without paths of this machine."""
    facts = domain.facts
    is_own = facts.kind == "any"
    words = " ".join(((license if is_own else None) or facts.license).split())
    metadata = license_metadata(words)
    if not is_own:
        # Of a known dataset only its own identifier counts, not one that its words resemble.
        identifier = facts.sharing.license_id
        metadata = {**(metadata if identifier == "other" else {}), "license": identifier}
    name = "Street scenes" if is_own else domain.name
    size = f", {max_size[0]}x{max_size[1]}" if max_size else ""
    space = next(iter(splits.values())).table.space
    kind = "Cityscapes " if space == CITYSCAPES else ""
    title = f"{name}{f' ({config})' if config else ''}{size}, {len(space)} {kind}classes"
    images = sum(opened.images for opened in splits.values())
    fitting = (size for limit, size in _SIZES.items() if images < limit)
    parquet = [{"split": name, "path": f"{_DATA}/{name}-*"} for name in splits]
    front = DatasetCardData(
        **metadata,
        task_categories=["image-segmentation"],
        pretty_name=title,
        size_categories=next(fitting, "1M<n<10M"),
        configs=[{"config_name": "default", "data_files": parquet}],
    )
    settings = {
        "domain": domain.name,
        "config": config,
        "options": commit.without_local_paths(options),
        "splits": list(splits),
        "max_size": list(max_size) if max_size else None,
    }
    differences = [(name, one.difference) for name, one in splits.items() if one.difference]
    return render_card(
        "dataset_card.md.jinja",
        domain=domain,
        is_own=is_own,
        title=title,
        license=words,
        splits=splits,
        max_size=max_size,
        repository=repository,
        front=yaml_text(front.to_dict()),
        marker=commit.MARKER,
        version=__version__,
        classes=dict(zip(space.classes, space.palette.tolist(), strict=True)),
        kind=kind,
        ignored=IGNORE_INDEX,
        tables=sorted({opened.table.name for opened in splits.values()}),
        differences={name: commit.without_local_paths(one) for name, one in differences},
        settings=yaml_text(settings),
    )


def _encoded(decode: Decode, max_size: tuple[int, int] | None, row: Row) -> Row:
    """From an undecoded row of a domain to one of the exported table: bytes of image files."""
    source = row["image"]
    own = None
    if max_size is None and not str(source["path"] or "").endswith(RAW_SUFFIX):
        own = open_image(source).data
        source = {"bytes": own, "path": source["path"]}
    # Decoded in any case: an image that cannot be read here must not be passed on.
    image, label = decode.one({**row, "image": source}, max_size)
    return {
        "image": {"bytes": own or encode_png(image), "path": None},
        "label": {"bytes": encode_png(label), "path": None},
        "name": row["name"],
    }


def _row_groups(rows: Iterable[Row]) -> Iterator[pa.Table]:
    held: list[Row] = []
    size = 0
    for row in rows:
        more = len(row["image"]["bytes"]) + len(row["label"]["bytes"])
        if held and size + more > min(ROW_GROUP_BYTES, SHARD_BYTES):
            yield pa.Table.from_pylist(held, _FEATURES.arrow_schema)
            held, size = [], 0
        held.append(row)
        size += more
    if held:
        yield pa.Table.from_pylist(held, _FEATURES.arrow_schema)


def _write_split(rows: Iterable[Row], folder: Path, split: str) -> None:
    """Write the shards; renamed last, as their names hold how many there are."""
    writer: pq.ParquetWriter | None = None
    count = written = 0
    try:
        for table in _row_groups(rows):
            if writer is None or written + table.nbytes > SHARD_BYTES:
                if writer is not None:
                    writer.close()
                # Image files are compressed already; smallest and largest bytes are of no use.
                writer = pq.ParquetWriter(
                    folder / f"{count}.part",
                    _FEATURES.arrow_schema,
                    compression="none",
                    use_dictionary=False,
                    write_statistics=["name"],
                    write_page_index=True,
                )
                count, written = count + 1, 0
            writer.write_table(table)
            written += table.nbytes
    finally:
        if writer is not None:
            writer.close()
    for number in range(count):
        name = f"{split}-{number:05d}-of-{count:05d}.parquet"
        (folder / f"{number}.part").rename(folder / name)


def _push(folder: Path, repository: str, options: ExportOptions) -> None:
    hub = huggingface_hub.HfApi()
    later = f"hf upload {repository} {folder} --repo-type dataset --exclude {MARKER_FILE}"
    if options.private:
        later += " --private"
    hint = f"{folder} is complete: push it later with '{later}'"
    with commit.pushing(repository, hub, options.quiet, hint):
        head, _ = commit.open_repository(hub, repository, "dataset", options.private)
        hub.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            ignore_patterns=[MARKER_FILE],
            commit_message="Export by revt_hf",
            # Shards of an earlier export would be read along with the new ones.
            delete_patterns=f"{_DATA}/*",
            # Refused if somebody else committed in the meantime.
            parent_commit=head,
        )
