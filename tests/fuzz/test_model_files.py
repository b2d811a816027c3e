"""Whatever the files of a model folder hold: a model, or one sentence."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from revt_hf.checkpoints.description import read_normalisation
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Model
from revt_hf.evaluation.predictor import prepare
from revt_hf.models.load import build_model, load_model
from revt_hf.training.setup import image_processor
from tests.helpers.mutate import COUNT, cases, mutated_bytes, mutated_json, reads_or_refuses
from tests.helpers.networks import tiny_model
from tests.helpers.tiny import tiny_recipe

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(0).save_pretrained(folder)
    image_processor(tiny_recipe(), (64, 128)).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def _load(folder, rng):
    """As a trained model, or as the start of a training."""
    if rng.random() < 0.8:
        return load_model(folder)
    return build_model(Model(init=str(folder)), 0)


def test_configs(copy):
    whole = json.loads((copy / "config.json").read_text())
    loaded = 0
    for rng, where in cases("config.json"):
        (copy / "config.json").write_text(json.dumps(mutated_json(whole, rng)))
        loaded += reads_or_refuses(partial(_load, copy, rng), where) is not None
    # Not everything is refused, nor is everything taken.
    assert 0 < loaded < COUNT


def test_image_processors(copy):
    whole = json.loads((copy / "preprocessor_config.json").read_text())
    read = []
    for rng, where in cases("preprocessor_config.json"):
        (copy / "preprocessor_config.json").write_text(json.dumps(mutated_json(whole, rng)))
        read.append(reads_or_refuses(partial(read_normalisation, copy), where))
    found = [normalisation for normalisation in read if normalisation is not None]
    assert 0 < len(found) < COUNT
    image = np.zeros((32, 32, 3), np.uint8)
    for normalisation in found:
        assert prepare(image, Protocol(max_size=None), 1.0, normalisation).isfinite().all()


def test_headers_of_safetensors_files(copy):
    whole = (copy / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    for rng, where in cases("safetensors header"):
        if rng.random() < 0.5:
            data = mutated_bytes(whole[:end], rng) + whole[end:]
        else:
            text = json.dumps(mutated_json(header, rng)).encode()
            data = len(text).to_bytes(8, "little") + text + whole[end:]
        (copy / WEIGHTS).write_bytes(data)
        reads_or_refuses(partial(_load, copy, rng), where)
