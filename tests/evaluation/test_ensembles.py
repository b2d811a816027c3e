"""Ensembles against their definitions, computed with all channels at full size."""

import pytest
import torch

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.predictor import COMBINATIONS, ensemble_segmenter, predict, prepare
from tests.helpers.networks import full_size, random_image, same_but_ties, tiny_model

pytestmark = pytest.mark.numeric

SIZE, NETWORK = (64, 96), (48, 72)
PROTOCOL = Protocol(max_size=(96, 48))
IMAGE = random_image(*SIZE)


@pytest.fixture(scope="module")
def models():
    return [tiny_model(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def logits(models):
    """Each member's logits, (C, h, w) as the network returns them."""
    pixels = prepare(IMAGE, PROTOCOL)
    assert tuple(pixels.shape[2:]) == NETWORK
    with torch.inference_mode():
        return [model(pixel_values=pixels).logits[0] for model in models]


@pytest.mark.parametrize("combine", ["logits", "product", "probabilities"])
def test_outputs_are_combined_as_defined(models, logits, combine):
    probabilities = [full_size(one, NETWORK, SIZE).double().softmax(0) for one in logits]
    expected = {
        "logits": full_size(torch.stack(logits).mean(0), NETWORK, SIZE),
        # Small differences of a product are large ones of its logarithm.
        "product": torch.stack(probabilities).prod(0).log(),
        "probabilities": torch.stack(probabilities).mean(0),
    }
    ours = ensemble_segmenter(models, combine).class_map(IMAGE, PROTOCOL)
    assert same_but_ties(ours, expected[combine])


@pytest.mark.parametrize("head", [1, 3])
def test_features_are_averaged_before_one_members_head(models, head):
    ours = ensemble_segmenter(models, "features", head).class_map(IMAGE, PROTOCOL)
    stages = {}

    def keep(index):
        return lambda module, inputs, output: stages.setdefault(index, []).append(output)

    handles = [
        stage.register_forward_hook(keep(index))
        for model in models
        for index, stage in enumerate(model.segformer.stages)
    ]
    with torch.inference_mode():
        for model in models:
            model(pixel_values=prepare(IMAGE, PROTOCOL))
        means = tuple(torch.stack(stages[index]).mean(0) for index in range(4))
        expected = models[head - 1].decode_head(means)[0]
    for handle in handles:
        handle.remove()
    assert same_but_ties(ours, full_size(expected, NETWORK, SIZE))


def test_they_differ_from_each_other_and_from_their_members(models):
    ways = [("logits", 1), ("probabilities", 1), ("features", 1), ("features", 2)]
    maps = [ensemble_segmenter(models, *way).class_map(IMAGE, PROTOCOL) for way in ways]
    maps += [predict(model, IMAGE, PROTOCOL) for model in models]
    assert len({value.tobytes() for value in maps}) == len(maps)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize(
    "protocol",
    [PROTOCOL, Protocol(max_size=None, window=48, stride=32, scales=(0.5, 1.0), flip=True)],
)
def test_an_ensemble_of_a_model_with_itself_is_the_model(models, combine, protocol):
    ours = ensemble_segmenter([models[0]] * 2, combine).class_map(IMAGE, protocol)
    assert (ours != predict(models[0], IMAGE, protocol)).mean() < 1e-3


def test_members_of_an_ensemble_of_logits_may_differ_in_size(models):
    other = tiny_model(0, hidden_sizes=[8, 16, 20, 64])
    ensemble_segmenter([models[0], other], "logits").class_map(IMAGE, PROTOCOL)
    with pytest.raises(UserError, match="member 2 has \\[8, 16, 20, 64\\]"):
        ensemble_segmenter([models[0], other], "features")


@pytest.mark.parametrize(
    ("members", "combine", "head", "words"),
    [
        (3, "votes", 1, "unknown ensemble 'votes': use one of logits, product"),
        (1, "logits", 1, "at least two models, not 1"),
        (3, "features", 4, "head 4: the ensemble has members 1 to 3"),
        (3, "features", 0, "head 0"),
    ],
)
def test_what_cannot_be_combined_is_one_sentence(models, members, combine, head, words):
    with pytest.raises(UserError, match=words):
        ensemble_segmenter(models[:members], combine, head)
