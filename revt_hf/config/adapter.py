"""The section of a recipe that trains an adapter in place of the encoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from revt_hf.config.yaml_files import Section


class Adapter(Section):
    """A low-rank adapter of the encoder's linear layers, by PEFT; the decode head learns as usual.

    The encoder's own weights stay as ``model.init`` has them, and the adapter learns at the
    encoder's rate.

    Attributes:
        rank: of the update of each layer.
        alpha: the update is multiplied by ``alpha / rank``, with ``rslora`` by
            ``alpha / sqrt(rank)``; null: as ``rank``.
        dropout: of the update's input.
        targets: ``auto``: every linear layer of the encoder, so attention and MLP of a transformer;
            else a regular expression that matches whole names of modules in memory, as in PEFT.
        init: how the update starts: ``default`` and ``gaussian`` with zero, ``orthogonal`` with
            two products that cancel, ``mica`` in the directions of the smallest singular values
            (only one factor learns), ``pissa`` in those of the largest.
        rslora: see ``alpha``.
        dora: learn the length of each row of a weight apart from its direction.
    """

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(gt=0, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[str, Field(min_length=1, max_length=1000)] = "auto"
    init: Literal["default", "gaussian", "pissa", "orthogonal", "mica"] = "default"
    rslora: bool = False
    dora: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Adapter":
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"init: orthogonal needs an even rank, not {self.rank}")
        if self.dora and self.init == "mica":
            raise ValueError("PEFT has no DoRA that starts as MiCA: remove dora or init")
        return self
