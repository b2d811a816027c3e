"""The network of a recipe and its initial weights."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from revt_hf.config.yaml_files import ExpandedPath, Section, Share

# SegFormer's attention heads per stage.
_HEADS = (1, 2, 5, 8)
_Channels = Annotated[int, Field(gt=0, le=2**13)]
_Layers = Annotated[int, Field(gt=0, le=100)]


class Model(Section):
    """The network and its initial weights.

    ``init`` is a Hub id (``nvidia/mit-b5``, ``repo@revision``) or a folder; without it the
    network is initialised randomly. ``head: init`` keeps the decode head of those weights.
    ``batch_norm: frozen`` makes BatchNorm use its running statistics without updating them; its
    weight and bias are still trained.

    ``family`` is transformers' ``model_type`` of the whole network: ``segformer``, ``upernet``
    around any encoder that transformers has a backbone for, ``beit``, ``dpt``, ``mobilenet_v2``,
    ``mobilevit``. ``size`` to ``decoder_hidden_size`` are a SegFormer's; ``config`` has fields of
    another family's configuration. ``freeze: encoder`` leaves the encoder as it is.
    """

    family: Literal["segformer", "upernet", "beit", "dpt", "mobilenet_v2", "mobilevit"] = (
        "segformer"
    )
    config: dict[str, Any] = Field(default_factory=dict)
    freeze: Literal["encoder"] | None = None
    size: Literal["b0", "b1", "b2", "b3", "b4", "b5"] | None = None
    init: ExpandedPath | None = None
    head: Literal["fresh", "init"] = "fresh"
    depths: tuple[_Layers, _Layers, _Layers, _Layers] | None = None
    hidden_sizes: tuple[_Channels, _Channels, _Channels, _Channels] | None = None
    decoder_hidden_size: _Channels | None = None
    drop_path: Share = 0.1
    dropout: Share = 0.1
    batch_norm: Literal["live", "frozen"] = "live"

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.family == "segformer":
            self._check_segformer()
        elif self.size or self.depths or self.hidden_sizes or self.decoder_hidden_size:
            raise ValueError(f"size to decoder_hidden_size are for segformer, not {self.family}")
        if self.init is None and self.head == "init":
            raise ValueError("head: init needs model.init to take the head from")
        if self.head == "init" and self.config:
            raise ValueError("with head: init the whole network is that of init: remove config")
        if self.freeze and self.init is None:
            raise ValueError("an encoder of random weights cannot be frozen: give init")
        return self

    def _check_segformer(self) -> None:
        if self.init is None and self.size is None:
            raise ValueError("give a size (b0..b5) or init (a Hub id or folder)")
        if self.config:
            raise ValueError("config is for other families than segformer: use size, depths ...")
        if self.init is not None and (self.size or self.depths or self.hidden_sizes):
            raise ValueError("the encoder's size comes from init: remove size, depths, sizes")
        if self.head == "init" and self.decoder_hidden_size:
            raise ValueError("the head's size comes from init: remove decoder_hidden_size")
        for size, heads in zip(self.hidden_sizes or (), _HEADS, strict=False):
            if size % heads:
                raise ValueError(f"hidden_sizes are multiples of {_HEADS}, not {self.hidden_sizes}")


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
