"""Starting from a Hub id, over HTTP."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import SegformerConfig, SegformerForImageClassification

from tests.helpers.hub_server import serve_model

CODE = """
import sys
from revt_hf.core.errors import UserError
from revt_hf.models.load import build_model
from revt_hf.config.recipe import Model
try:
    model = build_model(Model(init=sys.argv[1]), 0)
except UserError as error:
    print("refused:", error)
else:
    print("norm:", float(model.segformer.stages[3].layer_norm.weight.sum()))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mit-tiny")
    config = SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 40, 64], num_labels=5)
    model = SegformerForImageClassification(config)
    torch.nn.init.constant_(model.segformer.stages[3].layer_norm.weight, 2.0)
    model.save_pretrained(folder)
    return folder


def _start_from(name, endpoint, home):
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_secretsecretsecret",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE, name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "hf_secret" not in done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["someone/mit-tiny", "someone/mit-tiny@v1"])
def test_a_hub_id_is_fetched(repository, tmp_path, name):
    with serve_model("someone/mit-tiny", repository) as endpoint:
        assert _start_from(name, endpoint, tmp_path) == "norm: 128.0"


@pytest.mark.parametrize("name", ["someone/absent", "someone/mit-tiny@nowhere"])
def test_what_is_not_there_is_one_sentence(repository, tmp_path, name):
    with serve_model("someone/mit-tiny", repository) as endpoint:
        answer = _start_from(name, endpoint, tmp_path)
    assert answer.startswith(f"refused: cannot load the model '{name}'")
