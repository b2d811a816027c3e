"""Refuse numbers that a merge must not read or write: NaN, infinity, variances below 0."""

import math
from collections.abc import Sequence

import numpy as np

from revt_hf.checkpoints.architecture import VARIANCE
from revt_hf.checkpoints.headers import FLOATS
from revt_hf.core.errors import UserError
from revt_hf.merging.merge_plan import MergePlan, Run
from revt_hf.merging.registry import Array


class ValueChecks:
    """Checks on the values of a plan's runs, from position ``start`` of the run on.

    All raise a UserError that names the tensor and, as ``label``, the model.
    """

    def __init__(self, plan: MergePlan, allow_nonfinite: bool) -> None:
        self._plan, self._allow_nonfinite = plan, allow_nonfinite
        names = [item.name for item in plan.items]
        self._variance = names.index(VARIANCE) if VARIANCE in names else -1

    def is_finite(self, array: Array) -> bool:
        """Whether all values are finite, or may be anything."""
        # The sum is finite if all values are, but for overflow; it needs no second array.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._allow_nonfinite or math.isfinite(float(array.sum()))

    def members(self, run: Run, start: int, arrays: Sequence[Array]) -> None:
        """Refuse what the members, then the base, must not hold."""
        for source, array in zip(self._plan.inputs, arrays, strict=False):
            self.values(run, start, array, source.label)

    def values(self, run: Run, start: int, array: Array, label: str) -> None:
        """Refuse NaN and infinity, and variances below 0, which give NaN in the network."""
        if not self.is_finite(array):
            broken = np.flatnonzero(~np.isfinite(array.reshape(-1)))
            if broken.size:
                raise UserError(
                    f"{label}: the tensor {self._name(run, start + int(broken[0]))} holds NaN or "
                    "infinity: train it again, or pass --allow-nonfinite"
                )
        if run.first <= self._variance < run.last:
            for at in np.flatnonzero(array.reshape(-1) < 0):
                if self._name(run, start + int(at)) == VARIANCE:
                    raise UserError(
                        f"{label}: the variance {VARIANCE} holds a negative number: select the "
                        "backbone alone, or use another method"
                    )

    def overflow(self, run: Run, start: int, merged: Array, held: Array) -> None:
        """Refuse results that became infinite in the narrower dtype of the file."""
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(float(held.sum())):
                return
        values = merged.reshape(-1)
        broken = np.flatnonzero(np.isfinite(values) & ~np.isfinite(held))
        if broken.size:
            at = int(broken[0])
            raise UserError(
                f"the merge: the tensor {self._name(run, start + at)} holds {values[at]:g}, which "
                f"{FLOATS[self._plan.items[run.first].dtype]} cannot hold: take the head (--head) "
                "of a member in float32"
            )

    def _name(self, run: Run, position: int) -> str:
        for item in self._plan.items[run.first : run.last]:
            if position < item.count:
                return item.name
            position -= item.count
        raise IndexError(position)
