"""The Hugging Face pipeline gives the class map of `revt predict`."""

import shutil

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from revt_hf.config.protocol import Protocol
from revt_hf.data.domains.streets import render
from revt_hf.data.label_space import TRAIN_ID
from revt_hf.data.normalisation import STD
from revt_hf.evaluation.predictor import prepare
from revt_hf.training.saving import image_processor
from tests.helpers.command_line import revt
from tests.helpers.tiny import run, tiny_recipe

pytestmark = pytest.mark.numeric

# The network's images are of one size and ratio, 64x128; one grey level of its input.
_SIZE = (64, 128)
_LEVEL = 1 / min(STD)
_TIES = 2e-4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny network with image processors for several bounds of the test protocol."""
    root = tmp_path_factory.mktemp("trained")
    recipe = tiny_recipe(train={"steps": 20})
    run(root / "native", recipe)
    found = {"native": (root / "native", Protocol(max_size=None))}
    for name, max_size in {"as large": (128, 64), "enlarged": (256, 128)}.items():
        shutil.copytree(root / "native", root / name)
        other = recipe.model_copy(update={"evaluation": Protocol(max_size=max_size)})
        (root / name / "recipe.yaml").write_text(other.to_yaml())
        image_processor(other.evaluation.max_size, _SIZE).save_pretrained(root / name)
        found[name] = (root / name, Protocol(max_size=max_size))
    return found


def _by_pipeline(folder, image):
    classes = np.full(image.size[::-1], 255, np.uint8)
    for segment in pipeline("image-segmentation", model=str(folder))(image):
        classes[np.asarray(segment["mask"]) > 0] = TRAIN_ID[segment["label"]]
    return classes


@pytest.mark.parametrize(
    ("name", "levels", "differing"),
    # Resized, the network's input is the same within a grey level: Pillow rounds otherwise than
    # OpenCV; and its logits are resized once, not twice.
    [("native", 1e-4, _TIES), ("as large", 1e-4, _TIES), ("enlarged", 1.01, 0.03)],
)
def test_the_pipeline_gives_the_same_class_map(capsys, trained, tmp_path, name, levels, differing):
    folder, protocol = trained[name]
    pixels = render(11, "source", *_SIZE)[0]
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    theirs = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    ours = prepare(pixels, protocol)
    assert theirs["pixel_values"].shape == ours.shape
    assert float((theirs["pixel_values"] - ours).abs().max()) <= levels * _LEVEL
    code, _, error = revt(
        *(capsys, "predict", folder, "--input", tmp_path / "a.png"),
        *("--output", tmp_path / "out", "--save", "maps", "--quiet"),
    )
    assert code == 0, error
    found = np.asarray(Image.open(tmp_path / "out" / "maps" / "a.png"))
    by_pipeline = _by_pipeline(folder, image)
    assert len(np.unique(found)) > 2
    assert (found != by_pipeline).mean() <= differing
