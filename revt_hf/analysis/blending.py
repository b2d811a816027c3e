"""One network in memory whose weights are blends of several members' files."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.checkpoints.architecture import CLASSIFIER
from revt_hf.checkpoints.description import rows_by_train_id
from revt_hf.checkpoints.headers import FLOATS, ITEM_SIZES
from revt_hf.checkpoints.names import BACKBONE_PREFIX, HEAD_PREFIX, disk_name
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.evaluation.command import load_for_evaluation
from revt_hf.merging.dtypes import unpacked
from revt_hf.merging.feeds import opened, read_at
from revt_hf.merging.methods import METHODS
from revt_hf.merging.plan import MergeSpec, Plan, Rule, make_plan
from revt_hf.merging.record import merge_record
from revt_hf.merging.sources import Source


@dataclass(frozen=True)
class Blend:
    """What is blended: places (from 0) of members, in the order they are summed in.

    The start, where there is one, comes after the members.

    Attributes:
        places: at least one.
        weights: one each, divided by their sum; None for the plain mean.
    """

    places: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    @classmethod
    def weighted(cls, weights: Sequence[float]) -> "Blend":
        """One weight a place; those of weight 0 are left out."""
        places = tuple(place for place, weight in enumerate(weights) if weight)
        return cls(places, tuple(float(weights[place]) for place in places))


class Blender:
    """Members' files, and one model that takes on any blend of them.

    A context manager. Tensors are read from the files whenever a blend is asked for: memory is
    that of one model, its further heads and one tensor of each member. A blend has the bits of
    the model that ``revt merge`` would write.

    Args:
        members: at least two, of one architecture; the first is a folder or Hub id.
        start: what they started from, if blends with it are wanted.
        start_head: whether blends with its decode head are wanted, too.
        quiet: no progress bars while the Hub is read.

    Raises:
        UserError: a member cannot be read or does not match the first one.
    """

    def __init__(
        self,
        members: Sequence[str],
        start: str | None = None,
        start_head: bool = False,
        quiet: bool = True,
    ) -> None:
        self.members = tuple(map(str, members))
        self._stack = ExitStack()
        try:
            # The rule decides what of the start is wanted; its method is never called.
            rule = Rule(
                "all" if start_head else "backbone",
                "mean" if start is None else "task_arithmetic",
            )
            spec = MergeSpec(self.members, (rule,), base=start)
            self._plan: Plan = make_plan(spec, self._stack, quiet)
            self._sources = [*self._plan.sources, *([self._plan.base] if self._plan.base else [])]
            self._files = [
                [opened(path, self._stack) for path in source.files] for source in self._sources
            ]
            self.model: SegformerForSemanticSegmentation = load_for_evaluation(self.members[0])
            self._place = {item.name: place for place, item in enumerate(self._plan.items)}
            missing = [name for name in self._tensors(self.model) if name not in self._place]
            if missing:
                raise UserError(f"{self.members[0]} does not hold the tensor {missing[0]}")
            # The files keep their order of classes, the model has the train ids'.
            description = self._plan.sources[0].says.description
            self._rows = list(rows_by_train_id(description)) if description else []
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Blender":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def head(self, member: int) -> nn.Module:
        """A decode head of its own with a member's weights; members count from 0."""
        head: nn.Module = copy.deepcopy(self.model.decode_head)
        self._load(head, HEAD_PREFIX, Blend((member,)))
        return head.eval()

    def blend_encoder(self, blend: Blend) -> None:
        """Give the model's encoder a blend of encoders."""
        self._load(self.model.segformer, BACKBONE_PREFIX, blend)

    def blend_head(self, head: nn.Module, blend: Blend) -> None:
        """Give a head, such as :meth:`head` makes it, a blend of heads."""
        self._load(head, HEAD_PREFIX, blend)

    def records(self) -> dict[str, Any]:
        """``members`` and ``base`` (the start): path and sha256, as ``merge.json`` has them."""
        digests = [
            {path.name: file_sha256(path) for path in source.originals} for source in self._sources
        ]
        self._plan.check_unchanged()
        record = merge_record(self._plan, digests)
        return {"members": record["members"], "base": record["base"]}

    def _tensors(self, module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
        """A module's weights and buffers by their names on disk."""
        return {disk_name(f"{prefix}{name}"): t for name, t in module.state_dict().items()}

    @torch.no_grad()
    def _load(self, module: nn.Module, prefix: str, blend: Blend) -> None:
        for name, tensor in self._tensors(module, prefix).items():
            item = self._plan.items[self._place[name]]
            # Whole numbers, such as BatchNorm's count of batches, are no weights.
            if item.dtype in FLOATS:
                blended = self._blended(self._place[name], blend).reshape(item.shape)
                if name.startswith(CLASSIFIER):
                    blended = blended[self._rows]
                tensor.copy_(torch.from_numpy(np.array(blended, dtype=np.float32)))

    def _blended(self, place: int, blend: Blend) -> NDArray[Any]:
        arrays = [self._read(number, place) for number in blend.places]
        if len(arrays) == 1:
            return arrays[0]
        if blend.weights is None:
            return METHODS["mean"].function(arrays, None, None)
        return METHODS["weighted_mean"].function(arrays, np.array(blend.weights), None)

    def _read(self, number: int, place: int) -> NDArray[Any]:
        source: Source = self._sources[number]
        item = self._plan.items[place]
        dtype = source.dtypes.get(place, item.dtype)
        buffer = memoryview(bytearray(item.count * ITEM_SIZES[dtype]))
        file = int(source.file[place])
        path = source.files[file]
        read_at(self._files[number][file], path, int(source.offset[place]), buffer)
        return unpacked(buffer, dtype)
