"""Whether a checkpoint's tensors are those of the network that its folder describes."""

from collections.abc import Iterator, Mapping

from revt_hf.checkpoints.description import Description
from revt_hf.checkpoints.headers import FLOATS
from revt_hf.checkpoints.names import COUNTER, HEAD_PREFIX, IMAGENET_CLASSIFIER
from revt_hf.checkpoints.shapes import tensor_shapes
from revt_hf.checkpoints.tensors import Checkpoint, TensorPlace
from revt_hf.core.errors import UserError

VARIANCE = f"{HEAD_PREFIX}batch_norm.running_var"
_INTEGERS = {"I64", "I32", "I16", "I8", "U8"}
_NAMED = 3
_LONGEST = 120


def fitting_places(
    checkpoint: Checkpoint, description: Description, with_head: bool = True
) -> dict[str, TensorPlace]:
    """Where the tensors of the described network lie: every one, and nothing is left over.

    Args:
        checkpoint: of the folder that ``description`` is of.
        description: the network.
        with_head: False for the encoder alone: a decode head or ImageNet's classifier may be
            there and may be any.

    Returns:
        On-disk name -> place, of the network's tensors; BatchNorm's count of batches, which
        nothing reads, may lack.

    Raises:
        UserError: tensors are missing, left over, of another shape, or no floats; the first few
            are named.
    """
    held = dict(checkpoint.places)
    if not with_head:
        passed_over = (HEAD_PREFIX, IMAGENET_CLASSIFIER)
        held = {name: place for name, place in held.items() if not name.startswith(passed_over)}
    elif not any(name.startswith(HEAD_PREFIX) for name in held):
        raise UserError(f"{description.label} is an encoder: it has no decode head")
    classes = len(description.classes) if with_head else None
    shapes = tensor_shapes(description.architecture, classes)
    problems = list(_problems(held, shapes))
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(
            f"{description.label}: its tensors are not those of {description.file}: "
            f"{'; '.join(problems[:_NAMED])}{more}"
        )
    return {name: held[name] for name in shapes if name in held}


def _problems(
    held: Mapping[str, TensorPlace], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    for name, place in held.items():
        if name not in shapes:
            yield f"{_shown(place.name)} has no place in the network"
        elif place.shape != shapes[name]:
            yield f"{_shown(place.name)} is {list(place.shape)}, not {list(shapes[name])}"
        elif place.dtype not in (_INTEGERS if name == COUNTER else FLOATS):
            yield f"{_shown(place.name)} is of dtype {place.dtype}"
    for name in shapes:
        if name not in held and name != COUNTER:
            yield f"{name} is missing"


def _shown(name: str) -> str:
    shown = ascii(name)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
