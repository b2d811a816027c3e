"""Which row of a decode head is which class: decided by the names in ``config.json``."""

import re
from collections.abc import Sequence

from revt_hf.checkpoints.description import Description
from revt_hf.checkpoints.tensors import CONFIG_FILE
from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES

_NUMBERED = re.compile(r"label\d+")


def rows_by_train_id(description: Description) -> tuple[int, ...]:
    """Which row of the decode head's classifier each train id is, by the classes' names.

    Names are compared without regard to case, spaces, hyphens and underscores.

    Raises:
        UserError: the classes are not Cityscapes' 19, or have no names.
    """
    found = [plain(name) for name in description.classes]
    wanted = [plain(name) for name in CLASSES]
    where = f"{description.label}: its {CONFIG_FILE}"
    if len(found) != len(wanted):
        raise UserError(f"{where} names {len(found)} classes, the domains have {len(wanted)}")
    if all(_NUMBERED.fullmatch(name) for name in found):
        raise UserError(
            f"{where} does not name its classes ({description.classes[0]}, ...): write the "
            "names of its rows into id2label"
        )
    unknown = [name for name in description.classes if plain(name) not in wanted]
    missing = [name for name in CLASSES if plain(name) not in found]
    if unknown or missing:
        also = f" {unknown[0]!a}, which the domains do not have, and" if unknown else ""
        raise UserError(f"{where} names{also} no {missing[0]!a}: other classes than the domains'")
    return tuple(found.index(name) for name in wanted)


def plain(name: str) -> str:
    """A class name as it is compared: without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def is_train_id_order(names: Sequence[str]) -> bool:
    """Whether names of a head's rows are Cityscapes' 19 in the order of the train ids."""
    return [plain(name) for name in names] == [plain(name) for name in CLASSES]
