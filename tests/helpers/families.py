"""Tiny random networks of every family, in folders, and what was made of them."""

import re
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import (
    Data2VecVisionConfig,
    Data2VecVisionForSemanticSegmentation,
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    SwinConfig,
)
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import (
    Mask2FormerImageProcessorPil,
)

from revt_hf.checkpoints.built import quiet_transformers
from revt_hf.config.protocol import Protocol
from revt_hf.data.label_space import CLASSES
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.predictor import prepare
from revt_hf.merging.average import merge
from revt_hf.models.load import build_model
from revt_hf.models.networks import batch_norms, family_of_model
from revt_hf.training import run_folder
from revt_hf.training.saving import image_processor
from tests.helpers.networks import random_image
from tests.helpers.tiny import NO_SIZES, TINY, run, tiny_recipe

SIDE = 64
_WIDTHS = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
_SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
_BLOCKS = {**_VIT, "intermediate_size": 32, "image_size": SIDE, "patch_size": 16}


def _upernet(model_type, **fields):
    encoder = {"model_type": model_type, **fields}
    head = {"hidden_size": 16, "pool_scales": [1, 2], "backbone_config": encoder}
    return {"family": "upernet", "config": head}


# The `model` section of a recipe for each.
TRAINED = {
    "segformer": TINY["model"],
    "upernet-convnext": _upernet("convnext", **_WIDTHS),
    "upernet-swin": _upernet("swin", **_SWIN),
    "upernet-resnet": _upernet("resnet", embedding_size=8, **_WIDTHS),
    "upernet-dinov2": _upernet("dinov2", image_size=56, **_VIT),
    "upernet-dinov2-registers": _upernet("dinov2_with_registers", image_size=56, **_VIT),
    "upernet-dinov3": _upernet("dinov3_vit", image_size=SIDE, intermediate_size=32, **_VIT),
    "upernet-dinov3-convnext": _upernet("dinov3_convnext", **_WIDTHS),
    "beit": {
        "family": "beit",
        "config": {**_BLOCKS, "out_indices": [1, 2, 3, 4], "pool_scales": [1, 2]},
    },
    "dpt": {
        "family": "dpt",
        "config": {
            **_BLOCKS,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 8, 8, 8],
            "fusion_hidden_size": 8,
        },
    },
    "mobilenet": {
        "family": "mobilenet_v2",
        "config": {"depth_multiplier": 0.25, "output_stride": 16},
    },
    "mobilevit": {
        "family": "mobilevit",
        "config": {
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "num_attention_heads": 2,
            "aspp_out_channels": 16,
        },
    },
}
_NAMES = {"id2label": dict(enumerate(CLASSES))}
_EOMT = {**_NAMES, **_VIT, "image_size": SIDE, "patch_size": 16, "num_blocks": 1}
_EOMT |= {"num_queries": 6, "num_upscale_blocks": 1}
# Group norms have 32 groups.
_QUERIES = {"hidden_dim": 32, "encoder_feedforward_dim": 32, "encoder_layers": 1}
_QUERIES |= {"decoder_layers": 2, "dim_feedforward": 32, "num_attention_heads": 2, "num_queries": 6}
_TEXT = {"text_encoder_width": 32, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 100}


def _backbone():
    stages = [f"stage{number}" for number in (1, 2, 3, 4)]
    return SwinConfig(**{**_SWIN, "embed_dim": 32}, out_features=stages)


def _eomt_processor():
    return EomtImageProcessorPil(size={"shortest_edge": SIDE, "longest_edge": SIDE})


def _mask_processor():
    return Mask2FormerImageProcessorPil(size={"height": SIDE, "width": SIDE})


def _data2vec():
    fields = {**_BLOCKS, "out_indices": [1, 2, 3, 4], "pool_scales": [1, 2]}
    config = Data2VecVisionConfig(**fields, use_auxiliary_head=False, **_NAMES)
    return Data2VecVisionForSemanticSegmentation(config)


# Those that recipes do not train: how to make a network and its image processor.
MADE = {
    "data2vec": (_data2vec, lambda: BeitImageProcessorPil(size={"height": SIDE, "width": SIDE})),
    "eomt": (lambda: EomtForUniversalSegmentation(EomtConfig(**_EOMT)), _eomt_processor),
    "eomt-dinov3": (
        lambda: EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**_EOMT, intermediate_size=64)),
        _eomt_processor,
    ),
    "mask2former": (
        lambda: Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(
                **{**_NAMES, **_QUERIES, "feature_size": 32, "mask_feature_size": 32},
                backbone_config=_backbone(),
            )
        ),
        _mask_processor,
    ),
    "oneformer": (
        lambda: OneFormerForUniversalSegmentation(
            OneFormerConfig(
                **{**_NAMES, **_QUERIES, **_TEXT, "conv_dim": 32, "mask_dim": 32},
                backbone_config=_backbone(),
            )
        ),
        _mask_processor,
    ),
}
PREDICTED = [*TRAINED, *(name for name in MADE if name != "oneformer")]
ALL = [*TRAINED, *MADE]
SQUARES = {"dpt", "data2vec", "eomt", "eomt-dinov3"}
STREETS = {"images": 4, "val_images": 2, "size": [SIDE, 128]}


def protocol_of(name):
    return Protocol(max_size=None, **({"window": SIDE, "stride": 48} if name in SQUARES else {}))


def recipe_of(name, **sections):
    """A recipe of three steps; ``model`` has changes of the family's section."""
    section = {**NO_SIZES, "size": None, **TRAINED[name], **sections.pop("model", {})}
    changes = {
        "source": {"domain": "streets", "options": STREETS},
        "augmentation": {"max_size": [128, SIDE], "crop": [SIDE, SIDE]},
        "evaluation": protocol_of(name).model_dump(),
        **sections,
    }
    return tiny_recipe(model=section, **changes)


def network(name, seed=0):
    """A network in eval mode whose class maps hold several classes; seeds are neighbours."""
    torch.manual_seed(0)
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build_model(recipe_of(name).model, 0) if name in TRAINED else MADE[name][0]()
    model.eval()
    generator = torch.Generator().manual_seed(0)
    family = family_of_model(model)
    with torch.no_grad():
        for at, parameter in model.named_parameters():
            if family.masks and re.search("mask_head|mask_embedder", at):
                parameter.mul_(10)
        for module in model.modules():
            # Transformers' standard deviation of 0.02 leaves nothing of an image.
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, generator=generator)
    (rows, *_) = family.class_rows or ("decode_head.classifier",)
    normalised = normalisation_of(model)
    pixels = [
        prepare(image(seed=each), Protocol(max_size=None), 1.0, normalised) for each in range(4)
    ]
    _settle(model, torch.cat(pixels), seed)
    _spread(model, model.get_submodule(rows), pixels[0])
    generator.manual_seed(seed)
    for _, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point():
            tensor.mul_(1 + 0.001 * torch.randn(tensor.shape, generator=generator))
    return model


@torch.no_grad()
def _settle(model, pixels, seed):
    """Running statistics of a batch."""
    norms = batch_norms(model).values()
    for layer in norms:
        layer.momentum = 1.0
    if norms:
        model.train()(pixel_values=pixels)
        model.eval()
    for layer in norms:
        layer.momentum = 0.1
        layer.num_batches_tracked.fill_(seed + 5)


@torch.no_grad()
def _spread(model, classifier, pixels):
    """Outputs of a classifier with mean 0 and a standard deviation of 5 for each class."""
    seen = []
    hook = classifier.register_forward_hook(lambda *given: seen.append(given[-1]))
    with suppress(TypeError):
        # OneFormer lacks its text.
        model(pixel_values=pixels)
    hook.remove()
    if not seen:
        return
    # Of logits the classes are dimension 1, of queries they are last.
    outputs = seen[0] if seen[0].ndim == 4 else seen[0].movedim(-1, 1)[..., None]
    std, mean = torch.std_mean(outputs, (0, 2, 3))
    scale = 5 / std.clamp(min=1e-6)
    classifier.bias.sub_(mean).mul_(scale)
    classifier.weight.mul_(scale.reshape(-1, *[1] * (classifier.weight.ndim - 1)))


def processor_of(name, model):
    if name in MADE:
        return MADE[name][1]()
    return image_processor(None, (SIDE, SIDE), normalisation_of(model))


def save(model, folder, processor, **options):
    with quiet_transformers():
        model.save_pretrained(folder, **options)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


@dataclass
class Family:
    """Folders of a family: three members, their merge, a trained network; made when asked for."""

    name: str
    root: Path

    @cached_property
    def family(self):
        return family_of_model(self.networks[0])

    @cached_property
    def networks(self):
        return [network(self.name, seed) for seed in range(3)]

    @cached_property
    def members(self):
        """Folders with random weights."""
        return [
            save(model, self.root / f"member-{number}", processor_of(self.name, model))
            for number, model in enumerate(self.networks)
        ]

    @cached_property
    def merged(self):
        return merge(self.members, self.root / "merged")

    @cached_property
    def norms(self):
        """Names of the layers with running statistics."""
        return list(batch_norms(self.networks[0]))

    @cached_property
    def recipe(self):
        return recipe_of(self.name, train={"checkpoint_every": 2})

    @cached_property
    def trained(self):
        run(self.root / "trained", self.recipe)
        return self.root / "trained"

    def stopped(self, folder):
        """A run of :attr:`recipe` that Ctrl-C stopped after step 2."""
        real = run_folder.save_checkpoint

        def save_and_stop(*arguments):
            real(*arguments)
            raise KeyboardInterrupt

        stops = mock.patch.object(run_folder, "save_checkpoint", save_and_stop)
        with stops, pytest.raises(KeyboardInterrupt):
            run(folder, self.recipe)

    def copied(self, folder):
        """A copy of the first member."""
        return shutil.copytree(self.members[0], folder)


def image(height=SIDE, width=SIDE, seed=0):
    return random_image(height, width, seed)
