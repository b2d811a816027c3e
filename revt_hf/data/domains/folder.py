"""The original's custom dataset: ``img_dir/<split>`` and ``ann_dir/<split>``.

Images and labels have the same relative name apart from the suffix. Folders are searched
recursively.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.domains.registration import register_domain
from revt_hf.data.labels import label_table

Suffix = Annotated[str, Field(min_length=1)]


class FolderOptions(PairedOptions):
    """Options of the ``folder`` domain.

    ``image_dir`` and ``label_dir`` may hold ``{split}``. A suffix may be a list of several; upper
    and lower case do not matter, nor does ``.jpg`` for ``.jpeg``. ``encoding`` is the name of an
    encoding or a table of raw value: train id.
    """

    image_dir: str = "img_dir/{split}"
    label_dir: str = "ann_dir/{split}"
    image_suffix: Suffix | tuple[Suffix, ...] = ".png"
    label_suffix: Suffix | tuple[Suffix, ...] = ".png"
    encoding: str | dict[int, int] = "train_ids"


@register_domain
class Folder(PairedDomain):
    """See the module."""

    name = "folder"
    facts = Facts(
        kind="any",
        license="your own",
        download="your own images, in img_dir/<split> and ann_dir/<split>",
        sharing=Sharing("confirm", "only you know the license of your images"),
    )
    options_model = FolderOptions
    any_split = True

    def layouts_of(self, config: str | None, options: Any) -> Sequence[Layout]:
        folders = (options.image_dir, options.label_dir)
        suffixes = (options.image_suffix, options.label_suffix)
        return [Layout("converted", *folders, *suffixes, label_table(options.encoding))]

    def own_splits(self, data_dir: Path | None, config: str | None, options: Any) -> Sequence[str]:
        before, marker, after = options.image_dir.partition("{split}")
        folder = self.existing(data_dir) / before
        if not folder.is_dir():
            raise UserError(f"the folder of images is missing: {folder}")
        if not marker:
            return ("all",)
        names = sorted(path.name for path in folder.iterdir())
        return [name for name in names if (folder / f"{name}{after}").is_dir()]

    def label(
        self, split: str, data_dir: Path | None, config: str | None, options: Mapping[str, Any]
    ) -> str:
        return f"{data_dir.resolve().name if data_dir else self.name}/{split}"
