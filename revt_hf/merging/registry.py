"""What a merge method is, and the table of all of them."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from revt_hf.core.errors import UserError

Array = NDArray[Any]
Function = Callable[..., Array]
Scope = Literal["element", "tensor"]


@dataclass(frozen=True)
class Parameter:
    """One number that steers a method; ``low`` and ``high`` may be taken themselves."""

    default: float
    low: float
    high: float
    meaning: str
    whole: bool = False

    @property
    def range(self) -> str:
        """The values allowed, in words."""
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:.12g}"


@dataclass(frozen=True)
class Method:
    """One way of combining tensors of the same name, and what an engine must know about it.

    ``function(tensors, weights, base, **parameters)`` takes float32 or float64 arrays of one
    shape and returns a new array of that shape in the first one's dtype; it changes none of them.

    Attributes:
        name: the key in ``METHODS``.
        function: the formula and its errors are in its docstring.
        reference: paper and venue, or a link.
        scope: ``element`` if a tensor may be cut into pieces and merged piece by piece.
        needs_base: ``base`` must be given, the tensor of the model the members started from.
        takes_weights: ``weights`` may be given, one per member; other methods ignore them.
        stochastic: wants ``salt``, the tensor's name, beside its parameters.
        members: least and greatest number of tensors; None is no limit.
        parameters: by name.
    """

    name: str
    function: Function
    reference: str
    scope: Scope = "element"
    needs_base: bool = False
    takes_weights: bool = False
    stochastic: bool = False
    members: tuple[int, int | None] = (2, None)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


METHODS: dict[str, Method] = {}


def register(name: str, reference: str, **properties: Any) -> Callable[[Function], Function]:
    """Put a function into ``METHODS``; ``properties`` are further fields of ``Method``."""

    def keep(function: Function) -> Function:
        METHODS[name] = Method(name, function, reference, **properties)
        return function

    return keep


def checked_parameters(method: Method, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a method: the given values, the defaults for the rest.

    Args:
        method: the method.
        values: numbers, or text that reads as one (``"0.5"``).

    Raises:
        UserError: a parameter that the method does not have, or a value out of its range.
    """
    known = method.parameters
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f", did you mean '{close[0]}'?" if close else ""
            has = f"has {', '.join(known)}" if known else "has none"
            raise UserError(f"unknown parameter '{name}': {method.name} {has}{hint}")
    return {
        name: _checked(f"{method.name}'s {name}", parameter, values.get(name, parameter.default))
        for name, parameter in known.items()
    }


def _checked(label: str, parameter: Parameter, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    whole = parameter.whole and number.is_integer()
    # NaN is in no range.
    if not parameter.low <= number <= parameter.high or parameter.whole != whole:
        raise UserError(f"{label} must be {parameter.range}, not {value!r}")
    return int(number) if whole else number
