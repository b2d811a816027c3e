"""Label spaces: the classes of datasets and models, Cityscapes' 19 or others."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from typing import Any, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

from revt_hf.core.errors import UserError, plain, printable

IGNORE_INDEX = 255
Colour: TypeAlias = tuple[int, int, int]
LABELS_YAML: dict[str, Any] = yaml.safe_load(
    files("revt_hf.data").joinpath("labels.yaml").read_text()
)
# Name, colour and id in ``_labelIds.png`` of each class.
_CITYSCAPES: list[tuple[str, int, int]] = LABELS_YAML["cityscapes"]
CLASSES: tuple[str, ...] = tuple(name for name, _, _ in _CITYSCAPES)
NUM_CLASSES = len(CLASSES)
MOST_CLASSES = 254
LONGEST_NAME = 200
IGNORED = "ignored"
# Names that transformers gives to classes without names.
_NUMBERED = re.compile(r"label\d+")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a dataset or a model: their names and colours (0xRRGGBB) by class id.

    Ids are 0 to n - 1, and 255 is ignored. Spaces with the same names in the same order are equal.
    """

    name: str = field(compare=False)
    classes: tuple[str, ...]
    colours: tuple[int, ...] = field(compare=False)

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """Colours (n, 3), RGB, uint8."""
        return np.array([[*colour.to_bytes(3)] for colour in self.colours], dtype=np.uint8)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each class by name."""
        return {name: number for number, name in enumerate(self.classes)}

    @property
    def by_name(self) -> dict[str, Colour]:
        """The colour of each class."""
        return {name: self.colour(number) for name, number in self.ids.items()}

    @property
    def by_plain(self) -> dict[str, int]:
        """The colour of each class (0xRRGGBB) by its :func:`plain` name."""
        return dict(zip(map(plain, self.classes), self.colours, strict=True))

    @property
    def subsets(self) -> dict[str, tuple[int, ...]]:
        """The ids of subsets that papers average over; none outside Cityscapes."""
        return SUBSETS if self == CITYSCAPES else {}

    def colourise(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids (H, W), uint8 -> RGB image (H, W, 3), uint8; ignored pixels are black."""
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: len(self)] = self.palette
        return table[labels]

    def legend(self, maps: Iterable[NDArray[np.uint8]]) -> dict[str, Colour]:
        """Names and colours (RGB) of the classes in class maps, in the order of their ids."""
        found = np.unique(np.concatenate([np.unique(one) for one in maps]))
        known = [number for number in found.tolist() if number < len(self)]
        return {self.classes[number]: self.colour(number) for number in known}

    def colour(self, number: int) -> Colour:
        """A class's colour, RGB, 0..255."""
        red, green, blue = self.colours[number].to_bytes(3)
        return red, green, blue

    def rows(self, found: Sequence[str], where: str) -> tuple[int, ...]:
        """Where each class of this space is among ``found`` names, whatever their order.

        Refuses names that are not those of this space; the sentence begins with ``where``.
        """
        names, wanted = list(map(plain, found)), list(map(plain, self.classes))
        twice = [one for one in found if names.count(plain(one)) > 1]
        if twice:
            raise UserError(f"{where} names {twice[0]!a} twice")
        if len(names) == len(wanted) and names != wanted and is_nameless(found):
            raise UserError(
                f"{where} does not name its classes ({found[0]}, ...): write the names of its "
                "rows into id2label"
            )
        unknown = [name for name in found if plain(name) not in wanted]
        missing = [name for name in self.classes if plain(name) not in names]
        also = [f"{some_of(unknown)}, which {self.name} does not have"] if unknown else []
        differing = ", and ".join(also + ([f"no {some_of(missing)}"] if missing else []))
        if differing and len(names) != len(wanted):
            counts = f"{len(names)} classes, {self.name} has {len(wanted)}"
            raise UserError(f"{where} names {counts}: it names {differing}")
        if differing:
            raise UserError(f"{where} names {differing}: other classes")
        return tuple(map(names.index, wanted))


CITYSCAPES = LabelSpace("cityscapes19", CLASSES, tuple(colour for _, colour, _ in _CITYSCAPES))


def parse_classes(given: Any, where: str) -> LabelSpace:
    """Classes as a list of names, or an object of names to colours ``#rrggbb``, in order.

    Refused are fewer than 2 or more than 254 classes, and names that are equal but for case,
    spaces, hyphens and underscores.
    """
    names = [*given] if isinstance(given, list | tuple | dict) else []
    if not 2 <= len(names) <= MOST_CLASSES or not all(isinstance(one, str) for one in names):
        raise UserError(
            f"{where}: give 2 to {MOST_CLASSES} names of classes as a list, or an object of names "
            "to colours such as '#804080'"
        )
    same = [one for number, one in enumerate(names) if plain(one) in map(plain, names[:number])]
    if same or not all(map(plain, names)):
        raise UserError(f"{where}: {(same or names)[0]!a} is there twice, or a name is empty")
    odd = [one for one in names if len(one) > LONGEST_NAME or printable(one) != one]
    if odd or is_nameless(names):
        raise UserError(
            f"{where}: {(odd or names)[0][:40]!a} names no class: write 1 to {LONGEST_NAME} "
            "printable characters, and not transformers' LABEL_0"
        )
    if IGNORED in map(plain, names):
        raise UserError(f"{where}: {IGNORED!a} stands for pixels of no class: choose another name")
    colours = None
    if isinstance(given, dict):
        colours = [parse_colour(one, where) for one in given.values()]
    return space_of(names, where, colours)


def parse_colour(given: Any, where: str) -> int:
    """``#rrggbb`` as 0xRRGGBB."""
    if not isinstance(given, str) or not _COLOUR.fullmatch(given):
        raise UserError(f"{where}: {given!a} is no colour: write it as '#804080'")
    return int(given[1:], 16)


def space_of(classes: Sequence[str], name: str, colours: Sequence[int] | None = None) -> LabelSpace:
    """The space of these classes in this order; ``name`` is for messages.

    Without ``colours`` (0xRRGGBB) they are Cityscapes' where the name is, else PASCAL VOC's by id.
    """
    known = CITYSCAPES.by_plain
    names = list(map(plain, classes))
    if colours is None and names == list(known):
        return CITYSCAPES
    if colours is None:
        colours = [known.get(one, _voc_colour(number)) for number, one in enumerate(names, 1)]
    return LabelSpace(name, tuple(classes), tuple(colours))


def standard_order(space: LabelSpace) -> LabelSpace:
    """Cityscapes' 19 classes in their usual order, with their colours; other spaces as they are."""
    own = space.by_plain
    if sorted(own) != sorted(CITYSCAPES.by_plain):
        return space
    return replace(CITYSCAPES, colours=tuple(own[name] for name in CITYSCAPES.by_plain))


def some_of(names: Sequence[str]) -> str:
    """Names for a message: the first three, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"{name!a}" for name in names[:3]) + more


def is_nameless(classes: Sequence[str]) -> bool:
    """Whether names are those that transformers gives to classes without names."""
    return all(_NUMBERED.fullmatch(plain(name)) for name in classes)


def _voc_colour(number: int) -> int:
    """The bits of a class number, dealt to red, green and blue from the highest bit on."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> 3 * bit + channel & 1) << 7 - bit
    return int.from_bytes(channels)


TRAIN_ID = {name: train_id for train_id, name in enumerate(CLASSES)}
CITYSCAPES_ID = {train_id: raw for train_id, (_, _, raw) in enumerate(_CITYSCAPES)}

# SYNTHIA has no terrain, truck or train; half of the papers also leave the three rarest out.
SUBSETS: dict[str, tuple[int, ...]] = {
    name: tuple(i for i, present in enumerate(CLASSES) if present not in absent)
    for name, absent in (
        ("synthia16", ("terrain", "truck", "train")),
        ("synthia13", ("terrain", "truck", "train", "wall", "fence", "pole")),
    )
}
