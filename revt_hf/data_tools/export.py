"""``revt data prepare --format parquet``: a domain as a Hub dataset, if its license allows it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from revt_hf.config.domain_spec import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import MARKER_FILE, atomic_folder, check_output, write_text
from revt_hf.data.decoding import RAW_SUFFIX
from revt_hf.data.domains import checked_options, dataset_of, get_domain, open_domain
from revt_hf.data.domains.base import Opened
from revt_hf.data.reading import Decode
from revt_hf.data.resize import fit_size, resize_label_to_fit, resize_to_fit
from revt_hf.data_tools.dataset_card import Contents, card_text, check_sharing
from revt_hf.data_tools.parallel import in_threads
from revt_hf.hub.commit import (
    CARD_FILE,
    check_ours,
    check_repo_id,
    make_repository,
    pushing,
    require_token,
)

SHARD_BYTES = 500_000_000
# A reader holds one row group at a time.
ROW_GROUP_BYTES = 50_000_000
_FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.Image(), "name": datasets.Value("string")}
)
_DATA = "data"
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        domain: its name.
        data_dir: the folder of its data; None for built-in ones.
        config: of the domain; None is its default.
        options: of the domain.
        splits: one or more.
        max_size: (width, height) in pixels that images and labels are resized into; None leaves
            them as they are.
        license: what the user names as the data's license, to confirm that it was read.
    """

    domain: str
    data_dir: Path | None
    config: str | None
    options: Mapping[str, Any]
    splits: tuple[str, ...]
    max_size: tuple[int, int] | None
    license: str | None

    @property
    def inputs(self) -> list[str | None]:
        """What is read on this machine."""
        folder = str(self.data_dir) if self.data_dir else None
        return DomainSpec(domain=self.domain, data_dir=folder, options=dict(self.options)).inputs


def export_parquet(
    request: Export,
    output: Path,
    overwrite: bool = False,
    push: str | None = None,
    private: bool = False,
    quiet: bool = False,
) -> Path:
    """Write splits of a domain as a dataset folder that the Hub and ``datasets`` understand.

    ``README.md`` is the data card, ``data/<split>-00000-of-0000N.parquet`` are the images:
    ``image`` and ``label`` as bytes of image files, the label 8-bit with one channel and train
    ids (0..18, 255 ignored), and ``name``.

    Args:
        request: what to export.
        output: the folder; complete or not there.
        overwrite: replace ``output`` if it exists.
        push: id of a Hub dataset to upload it to; it is made if it does not exist, and its
            ``data`` folder and card are replaced if they were pushed from here.
        private: the Hub dataset is for its owner alone.
        quiet: no progress bars.

    Returns:
        ``output``.

    Raises:
        UserError: the license forbids it or is not confirmed; the data cannot be read; ``output``
            exists; the Hub cannot be reached or refuses.
    """
    domain = get_domain(request.domain)
    check_sharing(domain, request.license)
    _check_push(push, private)
    _check_request(request)
    check_output(output, overwrite, request.inputs)
    opened = _open(request)
    contents = Contents(
        domain,
        domain.chosen_config(request.config),
        checked_options(domain, request.options).model_dump(),
        opened,
        request.max_size,
        request.license,
        push,
    )
    decoders = {name: split.decode for name, split in opened.items()}
    tables = {
        name: dataset_of(opened[name].builder, decode, name).with_format(None)
        for name, decode in decoders.items()
    }
    with atomic_folder(output, overwrite, request.inputs) as scratch:
        (scratch / _DATA).mkdir()
        for name, images in tables.items():
            rows = in_threads(_Encode(decoders[name], request.max_size), images)
            watched = tqdm(
                rows, desc=f"export {name}", total=len(images), unit="image", disable=quiet
            )
            _write_split(watched, scratch / _DATA, name)
        write_text(scratch / CARD_FILE, card_text(contents))
    if push is not None:
        _push(output, push, private, quiet)
    return output


def _check_request(request: Export) -> None:
    if not request.splits:
        raise UserError("name at least one split to export")
    for name in request.splits:
        if not _SPLIT_NAME.fullmatch(name):
            raise UserError(
                f"the split '{name}' cannot be exported: use letters, digits, _ and . in its name"
            )
    if request.max_size is not None:
        fit_size(1, 1, request.max_size)


def _check_push(repository: str | None, private: bool) -> None:
    if repository is None:
        if private:
            raise UserError("--private is for a Hub dataset: name one with --push")
        return
    check_repo_id(repository, "dataset")
    require_token()


def _open(request: Export) -> dict[str, Opened]:
    place = (request.data_dir, request.config, request.options)
    opened = {name: open_domain(request.domain, name, *place) for name in request.splits}
    for name, split in opened.items():
        split.check(f"{request.domain}/{name}")
    return opened


@dataclass(frozen=True)
class _Encode:
    """From a row of a domain, undecoded, to a row of the exported table."""

    decode: Decode
    max_size: tuple[int, int] | None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        source = row["image"]
        own = None
        if self.max_size is None and not str(source["path"] or "").endswith(RAW_SUFFIX):
            own = source["bytes"] or _read(source["path"])
            source = {"bytes": own, "path": source["path"]}
        # Decoded in any case: what cannot be read here must not be passed on.
        decoded = self.decode({"image": [source], "label": [row["label"]]})
        image, label = decoded["image"][0], decoded["label"][0]
        if self.max_size is not None:
            label = resize_label_to_fit(label, image.shape[:2], self.max_size)
            image = resize_to_fit(image, self.max_size)
        if own is None:
            own = _png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return {
            "image": {"bytes": own, "path": None},
            "label": {"bytes": _png(label), "path": None},
            "name": row["name"],
        }


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _png(image: NDArray[Any]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def _row_groups(rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    held: list[dict[str, Any]] = []
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


def _write_split(rows: Iterable[dict[str, Any]], folder: Path, split: str) -> None:
    """Write the shards; their names tell how many there are, so they come at the end."""
    parts: list[Path] = []
    writer: pq.ParquetWriter | None = None
    written = 0
    try:
        for table in _row_groups(rows):
            if writer is None or written + table.nbytes > SHARD_BYTES:
                if writer is not None:
                    writer.close()
                parts.append(folder / f"{split}.{len(parts)}.part")
                writer = _writer(parts[-1])
                written = 0
            writer.write_table(table)
            written += table.nbytes
    finally:
        if writer is not None:
            writer.close()
    for number, part in enumerate(parts):
        part.rename(folder / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")


def _writer(path: Path) -> pq.ParquetWriter:
    # Image files are compressed already; smallest and largest bytes tell nothing.
    return pq.ParquetWriter(
        path,
        _FEATURES.arrow_schema,
        compression="none",
        use_dictionary=False,
        write_statistics=["name"],
        write_page_index=True,
    )


def _push(folder: Path, repository: str, private: bool, quiet: bool) -> None:
    hub = huggingface_hub.HfApi()
    later = f"hf upload {repository} {folder} --repo-type dataset --exclude {MARKER_FILE}" + (
        " --private" if private else ""
    )
    with pushing(repository, hub, quiet, f"{folder} is complete: push it later with '{later}'"):
        make_repository(hub, repository, "dataset", private)
        head = hub.dataset_info(repository)
        there = [sibling.rfilename for sibling in head.siblings or ()]
        check_ours(hub, repository, "dataset", str(head.sha), there)
        hub.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            ignore_patterns=[MARKER_FILE],
            commit_message="Export by revt_hf",
            # Shards of an earlier export would be read along with the new ones.
            delete_patterns=f"{_DATA}/*",
            # Whoever was faster is not overwritten.
            parent_commit=head.sha,
        )
