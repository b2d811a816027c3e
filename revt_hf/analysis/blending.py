"""Networks whose weights are blends of members, and what a diagnosis of them is measured on."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.checkpoints.headers import FLOATS
from revt_hf.checkpoints.names import names_on_disk
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.core.processes import process_state
from revt_hf.data.domains import in_space, load_spec, open_domain, space_of_images
from revt_hf.data.label_space import CITYSCAPES, LabelSpace
from revt_hf.evaluation.cost import library_versions
from revt_hf.evaluation.evaluate import load_for_evaluation, score_images
from revt_hf.evaluation.loading import check_labelled, check_sizes
from revt_hf.evaluation.metric import mean_iou
from revt_hf.evaluation.predictor import copied_head, heads_segmenter
from revt_hf.evaluation.result import SplitSpec
from revt_hf.merging.feeds import Feed
from revt_hf.merging.member_states import current_record
from revt_hf.merging.merge_plan import make_plan
from revt_hf.merging.methods import mean, weighted_mean
from revt_hf.merging.recalibration import spread
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.models.load import label_space
from revt_hf.models.networks import family_of_model, input_limits
from revt_hf.training.loss import VALID_LOSS

OnImage = Callable[[], object]


@dataclass(frozen=True)
class Blend:
    """A mean of members (indices from 0, then the initial weights), plain without ``weights``."""

    members: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    @classmethod
    def weighted(cls, weights: Sequence[float]) -> "Blend":
        """The mean with one weight for each member; members of weight 0 are left out."""
        members = tuple(index for index, weight in enumerate(weights) if weight)
        return cls(members, tuple(float(weights[index]) for index in members))


class Blender:
    """A model that takes on any blend of its members' weights, with the bits of ``revt merge``.

    Blends are read from the members' files: memory holds the model, heads, and one tensor of each
    member. ``init`` (with ``init_head``, its head) can be blended, too.
    """

    def __init__(
        self,
        members: Sequence[str],
        init: str | None = None,
        init_head: bool = False,
        quiet: bool = True,
    ) -> None:
        self.members = tuple(map(str, members))
        self.has_init = init is not None
        with ExitStack() as stack:
            # The rule decides which tensors of the initial weights are needed; its method is
            # never called.
            rule = Rule(
                "all" if init_head else "backbone", "mean" if init is None else "task_arithmetic"
            )
            self._plan = make_plan(MergeSpec(self.members, (rule,), base=init), stack, quiet)
            self._feeds = [Feed(source, stack) for source in self._plan.inputs]
            self.model: PreTrainedModel = load_for_evaluation(self.members[0])
            self._family = family_of_model(self.model)
            # In memory -> item of the plan.
            index = {item.name: index for index, item in enumerate(self._plan.items)}
            on_disk = names_on_disk(self.model)
            missing = [name for name in on_disk.values() if name not in index]
            if missing:
                raise UserError(f"{self.members[0]} lacks the tensor {missing[0]}")
            self._index = {name: index[at] for name, at in on_disk.items()}
            # Files keep their own order of classes, the model has that of the train IDs.
            description = self._plan.sources[0].description
            space = label_space(self.model)
            self._rows = (
                list(space.rows(description.classes, description.label)) if description else []
            )
            self._stack = stack.pop_all()

    def __enter__(self) -> "Blender":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def head(self, member: int) -> nn.Module:
        """A new decode head with the weights of a member (index from 0)."""
        head: nn.Module = copied_head(self.model)
        self.blend_head(head, Blend((member,)))
        return head.eval()

    def blend_encoder(self, blend: Blend) -> None:
        """Load a blend of encoders into the model."""
        for name, tensor in self.model.state_dict().items():
            if self._family.in_encoder(name):
                self._load(name, tensor, blend)

    def blend_head(self, head: nn.Module, blend: Blend) -> None:
        """Load a blend of heads into a head that :meth:`head` returned."""
        # A SegFormer's is its decode head alone.
        prefix = self._family.head if self._family is SEGFORMER else ""
        for name, tensor in head.state_dict(prefix=prefix).items():
            if not self._family.in_encoder(name):
                self._load(name, tensor, blend)

    def records(self) -> dict[str, Any]:
        """``members`` and ``base`` (the initial weights) with path and sha256, as in merge.json."""
        entries = [current_record(source).to_json() for source in self._plan.inputs]
        self._plan.check_unchanged()
        base = entries.pop() if self._plan.base else None
        return {"members": entries, "base": base}

    @torch.no_grad()
    def _load(self, name: str, tensor: torch.Tensor, blend: Blend) -> None:
        index = self._index[name]
        item = self._plan.items[index]
        # Integers, such as BatchNorm's count of batches, are not weights.
        if item.dtype in FLOATS:
            blended = self._blended(index, item.count, blend).reshape(item.shape)
            if self._family.has_class_rows(item.name):
                blended = blended[[*self._rows, *range(len(self._rows), len(blended))]]
            tensor.copy_(torch.from_numpy(np.array(blended, dtype=np.float32)))

    def _blended(self, index: int, count: int, blend: Blend) -> NDArray[Any]:
        arrays = [self._feeds[member].values(index, 0, count) for member in blend.members]
        if len(arrays) == 1:
            return arrays[0]
        if blend.weights is None:
            return mean(arrays)
        return weighted_mean(arrays, np.array(blend.weights))


class HeadScore(BaseModel):
    """Loss (nats) and mIoU (percent) with one decode head; of several splits, the means."""

    # A network that diverged has a loss of NaN.
    model_config = ConfigDict(frozen=True, populate_by_name=True, ser_json_inf_nan="constants")

    loss: float
    miou: float = Field(validation_alias="mIoU", serialization_alias="mIoU")


@dataclass(frozen=True)
class ScoringData:
    """Rows of several splits, their protocol, and the number of processes that decode images."""

    splits: tuple[SplitSpec, ...]
    rows: tuple[Any, ...]
    protocol: Protocol
    workers: int = 0

    @property
    def images(self) -> int:
        return sum(map(len, self.rows))

    @property
    def space(self) -> LabelSpace:
        """The classes that the images are labelled with."""
        return space_of_images(self.rows[0]) or CITYSCAPES

    @property
    def label(self) -> str:
        return " + ".join(split.label for split in self.splits)

    def check(self, model: PreTrainedModel) -> None:
        """Refuse images that a model cannot take."""
        limits = input_limits([model])
        for split, rows in zip(self.splits, self.rows, strict=True):
            check_sizes(rows, split.label, self.protocol, limits)

    def to_json(self) -> dict[str, Any]:
        """JSON values that identify the images and the protocol."""
        entries = []
        for split, rows in zip(self.splits, self.rows, strict=True):
            spec, fields = split.spec, {"domain", "data_dir", "config", "options"}
            folder = spec.data_dir or None
            found = open_domain(spec.domain, split.split, folder, spec.config, spec.options)
            entries.append(
                {
                    "label": split.label,
                    **spec.model_dump(mode="json", include=fields),
                    "split": split.split,
                    "is_source": split.is_source,
                    "content": found.content,
                    "images": len(rows),
                }
            )
        return {"splits": entries, "protocol": self.protocol.model_dump(mode="json")}


def load_data(
    splits: Sequence[SplitSpec], protocol: Protocol, images: int | None = None, workers: int = 0
) -> ScoringData:
    """Open splits for scoring: at most ``images`` of each, spread over it."""
    loaded: list[Any] = []
    for split in splits:
        rows = spread(load_spec(split.spec, split.split), images)
        space = space_of_images(loaded[0] if loaded else rows)
        loaded.append(rows if space is None else in_space(rows, space, split.label))
        check_labelled(loaded[-1], split.label)
    return ScoringData(tuple(splits), tuple(loaded), protocol, workers)


def score_heads(
    model: PreTrainedModel,
    heads: Mapping[str, nn.Module],
    data: ScoringData,
    on_image: OnImage = lambda: None,
) -> dict[str, HeadScore]:
    """Score each head, in eval mode, on features that the model's encoder computes once."""
    segmenter, sums = heads_segmenter(model, list(heads.values())), []
    for rows in data.rows:
        sums += score_images(
            [segmenter],
            rows,
            data.protocol,
            workers=data.workers,
            on_image=on_image,
            loss=VALID_LOSS,
        )
    scores = {}
    for index, name in enumerate(heads):
        losses = [split[index].mean_loss for split in sums]
        mious = [mean_iou(split[index].matrix) for split in sums]
        scores[name] = HeadScore(loss=float(np.mean(losses)), miou=float(np.mean(mious)))
    return scores


@dataclass(frozen=True)
class DiagnoseOptions:
    """What a diagnosis is measured on and where it is written; as the options of ``diagnose``."""

    output: Path
    splits: tuple[SplitSpec, ...]
    protocol: Protocol
    images: int | None = None
    workers: int = 0
    overwrite: bool = False
    quiet: bool = False

    def inputs(self, *models: str | None) -> list[str | None]:
        """All paths that are read: models, and the folders of the images."""
        return [*models, *(path for split in self.splits for path in split.spec.inputs)]

    def data(self, *models: str | None) -> ScoringData:
        """The images, after a check that the output may be written."""
        check_output(self.output, self.overwrite, self.inputs(*models))
        return load_data(self.splits, self.protocol, self.images, self.workers)

    def progress(self, total: int, name: str) -> "tqdm[Any]":
        return tqdm(total=total, desc=name, unit="image", disable=self.quiet)

    def written(
        self, name: str, values: dict[str, Any], draw: Callable[[Path], None], *models: str | None
    ) -> dict[str, Any]:
        """Write a result as JSON (returned) with its plot."""
        result = {"format": f"revt_hf.{name}/1", **values}
        with atomic_folder(self.output, self.overwrite, self.inputs(*models)) as scratch:
            draw(scratch / f"{name}.png")
            write_json(scratch / f"{name}.json", result)
        return result


def about(data: ScoringData, records: Mapping[str, Any]) -> dict[str, Any]:
    """What a result was measured on and with: ``records`` of the models, data and versions."""
    return {
        **records,
        "data": data.to_json(),
        "device": str(process_state().device),
        "versions": library_versions(),
    }
