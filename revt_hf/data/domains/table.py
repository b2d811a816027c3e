"""The Arrow table of a split: from the cache of ``datasets``, or in memory if that is unusable."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains.base import arrow_split


def table_of(
    make_builder: Callable[..., datasets.DatasetBuilder],
    split: str,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
) -> datasets.Dataset:
    """The table that a builder makes, undecoded.

    A cache that cannot be written, or holds a damaged table, is warned of, and the table is built
    anew in memory.

    Args:
        make_builder: takes ``cache_dir``.
        split: that the builder makes.
        cache_dir: where ``datasets`` keeps the table; its own default otherwise.
        num_proc: processes that build it.

    Raises:
        UserError: what the builder raises; or there is no room for the table anywhere.
    """
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
    try:
        return _built(make_builder, split, cache, num_proc, in_memory=False)
    except UserError:
        raise
    # What a damaged cache raises is up to pyarrow, json and the file system.
    except Exception as error:
        problem = str(error).partition("\n")[0] or type(error).__name__
    try:
        with tempfile.TemporaryDirectory(prefix="revt-hf-") as scratch:
            table = _built(make_builder, split, Path(scratch), num_proc, in_memory=True)
    except OSError as error:
        raise UserError(
            f"the datasets cache {cache} cannot be used ({problem}), nor can a temporary folder "
            f"({error.strerror or error}): set HF_DATASETS_CACHE or TMPDIR to a folder that can be "
            "written"
        ) from error
    warnings.warn(
        f"the datasets cache {cache} cannot be used ({problem}): the table of '{split}' is built "
        "in memory; empty that folder, or set HF_DATASETS_CACHE to one that can be written",
        DataWarning,
        stacklevel=2,
    )
    return table


def _built(
    make_builder: Callable[..., datasets.DatasetBuilder],
    split: str,
    cache: Path,
    num_proc: int | None,
    in_memory: bool,
) -> datasets.Dataset:
    with _no_progress_bars():
        builder = make_builder(cache_dir=str(cache))
        try:
            builder.download_and_prepare(num_proc=num_proc)
        except datasets.exceptions.DatasetGenerationError as error:
            raise error.__cause__ or error from error
        table = builder.as_dataset(split=arrow_split(split), in_memory=in_memory)
    if len(table) != builder.info.splits[arrow_split(split)].num_examples:
        raise ValueError(f"its table of '{split}' is not complete")
    # A table whose bytes were damaged fails here, not in the middle of a training.
    table.data.validate(full=True)
    return table


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Tables of paths are too quick for progress bars; the caller's own setting comes back."""
    already = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not already:
            datasets.enable_progress_bars()
