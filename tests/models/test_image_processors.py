"""A model's own image processor decides what its network sees."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import (
    Mask2FormerImageProcessorPil,
)
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import (
    MobileNetV2ImageProcessorPil,
)
from transformers.models.mobilevit.image_processing_pil_mobilevit import (
    MobileViTImageProcessorPil,
)
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from revt_hf.checkpoints.image_processor import read_normalisation, read_processor
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import IMAGENET, normalisation_of
from revt_hf.evaluation.predictor import predict, prepare
from revt_hf.merging.average import merge
from revt_hf.merging.recalibration import recalibrate_on_images
from revt_hf.models.load import build_model, load_model
from revt_hf.training.loop import _Run
from tests.helpers.families import SIDE, image, recipe_of
from tests.helpers.networks import saved
from tests.helpers.segformers import rewrite
from tests.helpers.tiny import NO_SIZES, run, tiny_recipe

NATIVE = Protocol(max_size=None)
_EXACT = {"do_resize": False}
KINDS = {
    "segformer": SegformerImageProcessorPil(**_EXACT),
    "beit": BeitImageProcessorPil(**_EXACT),
    "dpt": DPTImageProcessorPil(**_EXACT),
    "vit": ViTImageProcessorPil(**_EXACT),
    "mobilenet": MobileNetV2ImageProcessorPil(**_EXACT, do_center_crop=False),
    "mobilevit": MobileViTImageProcessorPil(**_EXACT, do_center_crop=False),
    "eomt": EomtImageProcessorPil(**_EXACT),
    "mask2former": Mask2FormerImageProcessorPil(**_EXACT),
    "no rescale": BeitImageProcessorPil(
        **_EXACT, do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0, 50.0, 40.0]
    ),
    "no normalisation": DPTImageProcessorPil(**_EXACT, do_normalize=False),
}
BACKENDS = [
    "pil",
    pytest.param(
        "torchvision",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("torchvision") is None, reason="needs torchvision"
        ),
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_networks_see_what_their_image_processor_gives(kind, backend, tmp_path):
    folder = saved(tmp_path / "model")
    KINDS[kind].save_pretrained(folder)
    picture = image(seed=2)
    theirs = AutoImageProcessor.from_pretrained(folder, backend=backend)
    wanted = theirs(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    model = load_model(folder)
    assert model.normalisation == read_normalisation(folder)
    pixels = prepare(picture, NATIVE, normalisation=normalisation_of(model))
    torch.testing.assert_close(pixels, wanted, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        logits = model(pixel_values=wanted).logits
    full = torch.nn.functional.interpolate(logits, size=(SIDE, SIDE), mode="bilinear")
    assert (predict(model, picture, NATIVE) != full.argmax(1)[0].numpy()).mean() <= 5e-4


@pytest.mark.parametrize("kind", ["mobilenet", "mobilevit", "no rescale"])
def test_training_and_the_result_keep_the_initial_weights_processor(kind, tmp_path, monkeypatch):
    init = saved(tmp_path / "init")
    KINDS[kind].save_pretrained(init)
    seen, real = [], _Run._optimizer_step

    def watched(self, *arguments):
        self._bare.segformer.register_forward_pre_hook(
            lambda _, given, named: seen.append((*given, *named.values())[0]), with_kwargs=True
        )
        return real(self, *arguments)

    monkeypatch.setattr(_Run, "_optimizer_step", watched)
    model = {"init": str(init), "head": "init", "size": None, **NO_SIZES}
    run(tmp_path / "run", tiny_recipe(model=model, train={"steps": 1, "batch_size": 1}))
    assert read_normalisation(tmp_path / "run") == read_normalisation(init)
    # Every pixel is a grey level as this processor scales it, in its order of channels.
    found = normalisation_of(load_model(init))
    levels = seen[0][0].flip(0) if found.do_flip_channel_order else seen[0][0]
    mean, std = (torch.tensor(part)[:, None, None] for part in (found.mean, found.std))
    levels = levels * std + mean
    assert float(levels.min()) > -1 and 128 < float(levels.max()) < 256


def test_members_whose_image_processors_differ_are_not_merged(tmp_path):
    first, second = (saved(tmp_path / name, seed) for seed, name in enumerate("ab"))
    KINDS["beit"].save_pretrained(first)
    KINDS["beit"].save_pretrained(second)
    rewrite(second / "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])
    sentence = r"image_mean of its preprocessor_config\.json is \[0\.4, 0\.5, 0\.5\], not \[0\.5"
    with pytest.raises(UserError, match=sentence):
        merge([first, second], tmp_path / "merged")
    KINDS["dpt"].save_pretrained(second)
    with pytest.raises(UserError, match="image_processor_type"):
        merge([first, second], tmp_path / "merged")
    (second / "preprocessor_config.json").unlink()
    # Without the file it is ImageNet's.
    assert read_normalisation(second) == IMAGENET
    with pytest.raises(UserError, match="image_mean"):
        merge([first, second], tmp_path / "merged")


@pytest.mark.parametrize("kind", KINDS)
def test_merged_and_recalibrated_models_keep_the_processor(kind, tmp_path):
    folders = [saved(tmp_path / name, seed) for seed, name in enumerate("ab")]
    for folder in folders:
        KINDS[kind].save_pretrained(folder)
    merged = merge(folders, tmp_path / "merged")
    out = recalibrate_on_images(merged, tmp_path / "out", [{"image": image()}], NATIVE)
    given = json.loads((folders[0] / "preprocessor_config.json").read_text())
    for folder in (merged, out):
        kept = json.loads((folder / "preprocessor_config.json").read_text())
        for key in ("image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize"):
            assert kept.get(key) == given.get(key), key
        assert read_normalisation(folder) == read_normalisation(folders[0])
        assert type(AutoImageProcessor.from_pretrained(folder)).__name__.startswith(
            type(KINDS[kind]).__name__.removesuffix("Pil")
        )
        assert read_processor(folder) == read_processor(folders[0])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("MobileViT", {"do_flip_channel_order": True}),
        ("Beit", {"do_normalize": True, "image_mean": [0.4] * 3, "image_std": [0.5] * 3}),
        ("Segformer", {}),
    ],
)
def test_files_of_old_feature_extractors_keep_kind_and_crop(kind, fields, tmp_path):
    old = {"do_resize": True, "size": 48, "do_center_crop": True, "crop_size": 32}
    folders = [saved(tmp_path / name, seed) for seed, name in enumerate("ab")]
    for folder in folders:
        given = {"feature_extractor_type": f"{kind}FeatureExtractor", **old, **fields}
        (folder / "preprocessor_config.json").write_text(json.dumps(given))
    merged = merge(folders, tmp_path / "merged")
    out = recalibrate_on_images(merged, tmp_path / "out", [{"image": image()}], NATIVE)
    for folder in (merged, out):
        kept = json.loads((folder / "preprocessor_config.json").read_text())
        assert kept["image_processor_type"] == f"{kind}ImageProcessor"
        assert "feature_extractor_type" not in kept
        assert (kept["do_center_crop"], kept["crop_size"]) == (True, 32)
        assert kept.items() >= fields.items()
        assert read_normalisation(folder) == read_normalisation(folders[0])


@pytest.mark.parametrize(
    "left_out",
    [
        {"do_rescale": None, "rescale_factor": None},
        {"do_normalize": None},
        {"return_tensors": "pt", "processor_class": "Any", "input_data_format": None},
        {"size": 48, "do_resize": None},
        {"size": None},
    ],
)
def test_members_may_leave_out_defaults(left_out, tmp_path):
    folders = [saved(tmp_path / name, seed) for seed, name in enumerate("ab")]
    for folder in folders:
        KINDS["beit"].save_pretrained(folder)
    path = folders[1] / "preprocessor_config.json"
    given = {**json.loads(path.read_text()), **left_out}
    path.write_text(json.dumps({key: value for key, value in given.items() if value is not None}))
    for number in (0, 1):
        merged = merge(folders[:: 1 - 2 * number], tmp_path / f"merged-{number}")
        assert read_normalisation(merged) == read_normalisation(folders[0])


def test_a_mobilevit_sees_blue_green_red(tmp_path):
    model = build_model(recipe_of("mobilevit").model, 0)
    model.save_pretrained(tmp_path / "model")
    KINDS["mobilevit"].save_pretrained(tmp_path / "model")
    found = normalisation_of(load_model(tmp_path / "model"))
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    assert prepare(red, NATIVE, normalisation=found)[0, :, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "known are"),
        ({"do_grayscale": True}, "do_grayscale"),
        ({"image_processor_type": "BeitImageProcessor", "image_mean": None}, "has to be given"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
    ],
)
def test_processors_that_are_not_known_are_refused(changes, sentence, tmp_path):
    folder = saved(tmp_path / "model")
    KINDS["segformer"].save_pretrained(folder)
    rewrite(folder / "preprocessor_config.json", **changes)
    with pytest.raises(UserError, match=sentence):
        load_model(folder)
