"""Merge methods, their registry, and the rules of a merge that name them."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.core.json_record import JsonRecord
from revt_hf.merging.layer_weights import LayerWeights

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

    def checked(self, label: str, value: Any) -> float:
        """A number, or its text, as a number within the limits."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        # NaN is in no range.
        fits = self.low <= number <= self.high
        if not fits or (self.whole and not number.is_integer()):
            kind = "a whole number" if self.whole else "a number"
            limits = f"from {self.low:g} to {self.high:.12g}"
            raise UserError(f"{label} must be {kind} {limits}, not {value!r}")
        return int(number) if self.whole else number


@dataclass(frozen=True)
class MergeMethod:
    """A way to combine the tensors of one name.

    ``function`` takes float32 or float64 arrays of one shape, changes none of them, and returns a
    new array of that shape. It may have arguments named ``weights`` (float64, one per member, or
    None), ``base`` (the tensor of the members' initial model, float64), ``means`` (if the tensor is
    a BatchNorm's running variance, the running means beside the members'; otherwise None) and
    ``salt`` (the tensor's name, for random draws), and keyword-only ones that a :class:`Parameter`
    annotates.

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
    def needs_means(self) -> bool:
        return "means" in self.arguments

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
        means: Tensors | None = None,
    ) -> Array:
        """The merged tensor in the first one's dtype.

        Raises:
            UserError: parameters or weights that the method cannot use.
        """
        given: dict[str, Any] = {"salt": salt, "means": means}
        given["weights"] = None if weights is None else np.asarray(weights, np.float64)
        given["base"] = None if base is None else base.astype(np.float64)
        taken = {name: value for name, value in given.items() if name in self.arguments}
        merged = self.function(tensors, **taken, **self.checked(parameters or {}))
        if np.shape(merged) != tensors[0].shape:
            raise UserError(
                f"the merge method '{self.name}' made {np.shape(merged)} of tensors "
                f"{tensors[0].shape}: it has to keep their shape"
            )
        with np.errstate(over="ignore"):
            return np.asarray(merged, tensors[0].dtype)

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters: the given values (numbers, or their text), else the defaults."""
        for name in values:
            if name not in self.parameters:
                close = difflib.get_close_matches(name, self.parameters, 1)
                hint = f", did you mean '{close[0]}'?" if close else ""
                has = f"has {', '.join(self.parameters)}" if self.parameters else "has none"
                raise UserError(f"unknown parameter '{name}': {self.name} {has}{hint}")
        return {
            name: parameter.checked(f"{self.name}'s {name}", values.get(name, parameter.default))
            for name, parameter in self.parameters.items()
        }


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
        UserError: another function has registered the name, or a parameter has no default.
    """

    def decorate(function: Function) -> Function:
        known = _METHODS.get(name)
        # The same function may be defined again, as in a notebook.
        if known is not None and _origin(known.function) != _origin(function):
            origin = _origin(known.function)
            raise UserError(f"the merge method '{name}' exists already ({origin}): rename yours")
        arguments = inspect.signature(function).parameters
        parameters = {
            key: replace(note, default=arguments[key].default, whole=hint.__origin__ is int)
            for key, hint in get_type_hints(function, include_extras=True).items()
            for note in getattr(hint, "__metadata__", ())
            if isinstance(note, Parameter)
        }
        bare = [key for key in parameters if arguments[key].default is inspect.Parameter.empty]
        if bare:
            raise UserError(f"the merge method '{name}': give its parameter {bare[0]} a default")
        _METHODS[name] = MergeMethod(
            name, function, reference, scope, members, parameters, frozenset(arguments)
        )
        return function

    return decorate


def _origin(function: Function) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def find_method(name: str) -> MergeMethod:
    """The method of that name, built in or registered elsewhere."""
    # It imports the other built-in methods, and this module.
    import revt_hf.merging.singular_values  # noqa: F401

    # Entry points are read only for what is not built in.
    if name not in _METHODS and name not in all_methods():
        raise UserError(f"unknown merge method '{name}': use one of {', '.join(_METHODS)}")
    return _METHODS[name]


def all_methods() -> Mapping[str, MergeMethod]:
    """Every method by name, with those that installed packages name as entry points."""
    from importlib.metadata import entry_points

    import revt_hf.merging.singular_values  # noqa: F401

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            raise UserError(
                f"the merge methods of {entry.value} cannot be loaded: {error}"
            ) from error
    return _METHODS


@dataclass(frozen=True)
class Rule(JsonRecord):
    """A selection of tensors and how they are combined.

    Attributes:
        select: see ``revt_hf.merging.selection``.
        method: name of a registered method.
        weights: one per member, for methods that take them.
        layer_weights: weights by depth, in place of ``weights``.
        parameters: of the method.
    """

    select: str = "backbone"
    method: str = "mean"
    weights: tuple[float, ...] | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    layer_weights: LayerWeights | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Weights and parameters, where they are given."""
        by_layer = self.layer_weights and asdict(self.layer_weights)
        given = {"weights": self.weights, "parameters": self.parameters, "layer_weights": by_layer}
        return {key: value for key, value in given.items() if value}

    def weights_at(self, depth: float, count: int) -> tuple[float, ...] | None:
        """The weights of ``count`` members at a depth in 0..1, if any are given."""
        return self.layer_weights.at(depth, count) if self.layer_weights else self.weights

    def __str__(self) -> str:
        weights = f", weights {list(self.weights)}" if self.weights else ""
        weights += f", {self.layer_weights}" if self.layer_weights else ""
        extra = "".join(f", {key} {value:g}" for key, value in self.parameters.items())
        return f"{self.method} of '{self.select}'{weights}{extra}"


@dataclass(frozen=True)
class MergeSpec:
    """A merge: members in order, rules, and where everything else comes from.

    Attributes:
        members: folders, files or Hub IDs.
        rules: the last one that selects a tensor counts.
        head: number (from 1) of the member that gives all tensors that no rule selects, and those
            of integers.
        base: the members' initial model, for methods that need it.
        names: of the members in records and listings, None for the path; empty for all paths.
    """

    members: tuple[str, ...]
    rules: tuple[Rule, ...] = (Rule(),)
    head: int = 1
    base: str | None = None
    names: tuple[str | None, ...] = ()


def check_spec(spec: MergeSpec) -> None:
    """Refuse a merge that cannot work, before its members are opened."""
    count = len(spec.members)
    if count < 2:
        raise UserError("a merge needs at least two members")
    if not 1 <= spec.head <= count:
        raise UserError(f"head is the number of a member, 1 to {count}: {spec.head}")
    if not spec.rules:
        raise UserError("a merge needs at least one rule")
    methods = [find_method(rule.method) for rule in spec.rules]
    if spec.base is not None and not any(method.needs_base for method in methods):
        used = " and ".join(dict.fromkeys(method.name for method in methods))
        raise UserError(f"base is {spec.base}, but {used} uses none: leave it out")
    for rule, method in zip(spec.rules, methods, strict=True):
        low, high = method.members
        if not low <= count <= (high or count):
            wanted = f"{low}" if low == high else f"{low} to {high}" if high else f"{low} or more"
            raise UserError(f"{rule.method} takes {wanted} members, not {count}")
        if method.needs_base and spec.base is None:
            raise UserError(f"{rule.method} needs a base, the model that the members started from")
        if rule.layer_weights is not None:
            if rule.weights is not None:
                raise UserError("weights and layer_weights exclude each other: give one of them")
            rule.layer_weights.check(count)
        weights = rule.weights_at(1.0, count)
        if weights is not None and not method.takes_weights:
            takers = ", ".join(name for name, one in all_methods().items() if one.takes_weights)
            raise UserError(f"{rule.method} takes no weights: use one of {takers}")
        if weights is not None and len(weights) != count:
            raise UserError(f"{len(weights)} weights for {count} members: give one per member")
        # Any numbers reveal weights and parameters that the method cannot work with.
        ones = [np.ones(1, np.float32)] * count
        with np.errstate(all="ignore"):
            method.combine(ones, weights, ones[0], rule.parameters)
