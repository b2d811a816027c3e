"""Any folder of images and labels, with Cityscapes' classes or others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from revt_hf.config.yaml_files import read_yaml
from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Facts, Given, Layout, Sharing
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.label_space import CITYSCAPES, IGNORE_INDEX, LabelSpace, parse_classes
from revt_hf.data.labels import TRAIN_IDS, LabelTable, id_table, label_table

Suffix = Annotated[str, Field(min_length=1)]
# Numbers first: recipes that were resolved to JSON have them as text.
RawValue = Annotated[int | str, Field(union_mode="left_to_right")]


class FolderOptions(PairedOptions):
    """Options of ``folder``: folders may hold ``{split}``, suffixes be several."""

    image_dir: str = "img_dir/{split}"
    label_dir: str = "ann_dir/{split}"
    image_suffix: Suffix | tuple[Suffix, ...] = ".png"
    label_suffix: Suffix | tuple[Suffix, ...] = ".png"
    # None: Cityscapes' 19. A list of names, names with colours '#rrggbb', or a YAML file of either.
    classes: tuple[str, ...] | dict[str, str] | None = None
    # Name of an encoding of Cityscapes' classes; or raw value, or colour '#rrggbb', to the id or
    # the name of a class, or "ignored". By default labels hold ids of the classes, and 255.
    encoding: str | dict[RawValue, int | str] | None = None
    reduce_zero_label: bool = False  # 0 is ignored, and n + 1 is class n

    @field_validator("classes", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        # The content, so that the recipe beside a model tells its classes.
        if not isinstance(given, str):
            return given
        found = read_yaml(Path(given))
        if not found:
            raise ValueError(f"{given} holds no classes")
        return found

    @property
    def space(self) -> LabelSpace:
        """The classes."""
        if self.classes is None:
            return CITYSCAPES
        given = self.classes
        return parse_classes([*given] if isinstance(given, tuple) else given, "options.classes")

    @property
    def table(self) -> LabelTable:
        """What the values of label files mean."""
        space, encoding = self.space, self.encoding
        if self.reduce_zero_label:
            if encoding is not None:
                raise UserError("options.reduce_zero_label: only without an encoding")
            return LabelTable(
                {0: IGNORE_INDEX, 255: IGNORE_INDEX, **{i + 1: i for i in range(len(space))}},
                "class_ids + 1",
                space=space,
            )
        if encoding is None:
            return TRAIN_IDS.in_space(space) if space == CITYSCAPES else id_table(space)
        return label_table(encoding, space)


@register_domain
class Folder(PairedDomain):
    """The original's custom dataset: ``img_dir/<split>`` and ``ann_dir/<split>``, recursively."""

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
        return [Layout("converted", *folders, *suffixes, options.table)]

    def own_splits(self, data_dir: Path | None, config: str | None, options: Any) -> Sequence[str]:
        before, marker, after = options.image_dir.partition("{split}")
        folder = self.existing(data_dir) / before
        if not folder.is_dir():
            raise UserError(f"the folder of images is missing: {folder}")
        if not marker:
            return ("all",)
        names = sorted(path.name for path in folder.iterdir())
        return [name for name in names if (folder / f"{name}{after}").is_dir()]

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        return f"{data_dir.resolve().name if data_dir else self.name}/{split}"
