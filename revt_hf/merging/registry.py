"""Merge methods: the interface and the registry."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError

Array = NDArray[Any]
Tensors = Sequence[Array]
Function = Callable[..., Array]
Scope = Literal["element", "tensor"]

ENTRY_POINTS = "revt_hf.merge_methods"


@dataclass(frozen=True)
class Parameter:
    """Annotates a number that tunes a method; ``low`` and ``high`` are allowed values themselves.

    The annotated argument gives ``default`` and, by its type ``int``, ``whole``.
    """

    low: float
    high: float
    meaning: str
    default: float = math.nan
    whole: bool = False


@dataclass(frozen=True)
class MergeMethod:
    """A way to combine the tensors of one name.

    ``function`` takes float32 or float64 arrays of one shape, changes none of them, and returns a
    new array of that shape. It may have arguments named ``weights`` (float64, one per member, or
    None), ``base`` (the tensor of the members' initial model, float64) and ``salt`` (the tensor's
    name, for random draws), and keyword-only ones that a :class:`Parameter` annotates.

    Attributes:
        name: its key in the registry.
        function: with the formula in its docstring.
        reference: paper and venue, or a link.
        scope: ``element`` if a tensor may be merged piece by piece.
        members: smallest and largest number of members; None for no limit.
        parameters: by name.
        arguments: names of the function's arguments.
    """

    name: str
    function: Function
    reference: str
    scope: Scope
    members: tuple[int, int | None]
    parameters: Mapping[str, Parameter]
    arguments: frozenset[str]

    @property
    def needs_base(self) -> bool:
        return "base" in self.arguments

    @property
    def takes_weights(self) -> bool:
        return "weights" in self.arguments

    def combine(
        self,
        tensors: Tensors,
        weights: Sequence[float] | None = None,
        base: Array | None = None,
        parameters: Mapping[str, Any] | None = None,
        salt: str = "",
    ) -> Array:
        """The merged tensor in the first one's dtype.

        Raises:
            UserError: parameters or weights that the method cannot use.
        """
        given = {
            "weights": None if weights is None else np.asarray(weights, np.float64),
            "base": None if base is None else base.astype(np.float64),
            "salt": salt,
        }
        taken = {name: value for name, value in given.items() if name in self.arguments}
        merged = self.function(tensors, **taken, **checked_parameters(self, parameters or {}))
        with np.errstate(over="ignore"):
            return np.asarray(merged, tensors[0].dtype).reshape(tensors[0].shape)


_METHODS: dict[str, MergeMethod] = {}


def register(
    name: str,
    reference: str,
    scope: Scope = "element",
    members: tuple[int, int | None] = (2, None),
) -> Callable[[Function], Function]:
    """Register the decorated function as a merge method.

    Args:
        name: its name in recipes and on the command line.
        reference: paper and venue, or a link.
        scope: ``tensor`` if it needs whole tensors, ``element`` if pieces of them are enough.
        members: smallest and largest number of members; None for no limit.

    Raises:
        ValueError: another module has registered the name.
    """

    def decorate(function: Function) -> Function:
        known = _METHODS.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(f"the merge method '{name}' exists already")
        arguments = inspect.signature(function).parameters
        parameters = {
            key: replace(note, default=arguments[key].default, whole=hint.__origin__ is int)
            for key, hint in get_type_hints(function, include_extras=True).items()
            for note in getattr(hint, "__metadata__", ())
            if isinstance(note, Parameter)
        }
        _METHODS[name] = MergeMethod(
            name, function, reference, scope, members, parameters, frozenset(arguments)
        )
        return function

    return decorate


def find_method(name: str) -> MergeMethod:
    """The method of that name, built in or registered elsewhere."""
    # It imports this module.
    import revt_hf.merging.methods  # noqa: F401

    # Entry points are read only for what is not built in.
    if name not in _METHODS and name not in all_methods():
        raise UserError(f"unknown merge method '{name}': use one of {', '.join(_METHODS)}")
    return _METHODS[name]


def all_methods() -> Mapping[str, MergeMethod]:
    """Every method by name, with those that installed packages name as entry points."""
    from importlib.metadata import entry_points

    import revt_hf.merging.methods  # noqa: F401

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            raise UserError(
                f"the merge methods of {entry.value} cannot be loaded: {error}"
            ) from error
    return _METHODS


def checked_parameters(method: MergeMethod, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a method: the given values (numbers, or their text), else the defaults."""
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
    # NaN is in no range.
    fits = parameter.low <= number <= parameter.high
    if not fits or (parameter.whole and not number.is_integer()):
        kind = "a whole number" if parameter.whole else "a number"
        limits = f"from {parameter.low:g} to {parameter.high:.12g}"
        raise UserError(f"{label} must be {kind} {limits}, not {value!r}")
    return int(number) if parameter.whole else number
