"""Image to class map by the protocol: resizes, windows, views, ensembles, against definitions."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.class_maps import MeanProbabilities, _class_map_torch, class_map
from revt_hf.evaluation.ensembles import COMBINATIONS, ensemble_segmenter
from revt_hf.evaluation.predictor import (
    model_segmenter,
    network_sizes,
    predict,
    prepare,
    sliding_logits,
)
from tests.helpers.golden import golden_file
from tests.helpers.networks import NATIVE, full_size, random_image, same_but_ties, tiny_model

pytestmark = pytest.mark.numeric

SLIDE = Protocol(max_size=None, window=32, stride=24)
# Of an image, and of the networks' input.
SIZE, NETWORK = (64, 96), (48, 72)
PROTOCOL = Protocol(max_size=(96, 48))
IMAGE = random_image(*SIZE)


@pytest.fixture(scope="module")
def models():
    return [tiny_model(seed) for seed in range(3)]


def test_network_input_is_the_originals():
    golden = np.load(golden_file("inference_b0.npz"))
    image = golden["image_rgb"]
    pixels = prepare(image, Protocol()).numpy()
    assert pixels.shape[2:] == (512, 683)
    np.testing.assert_allclose(pixels, golden["pixel_values"].reshape(pixels.shape), atol=1e-4)
    assert prepare(image, NATIVE).shape[2:] == image.shape[:2]


@pytest.mark.parametrize(
    ("logits_size", "network_size", "image_size"),
    [
        ((32, 64), (128, 256), (128, 256)),
        ((32, 64), (128, 256), (256, 512)),
        ((128, 171), (512, 683), (360, 480)),
        ((30, 41), (120, 161), (97, 131)),
        ((16, 16), (16, 16), (16, 16)),
    ],
)
def test_equals_interpolate_and_argmax(logits_size, network_size, image_size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(19, 6, 8, generator=generator) * 5
    logits = functional.interpolate(coarse[None], size=logits_size, mode="bicubic")[0]
    before = logits.clone()
    full = full_size(logits, network_size, image_size)
    # Where a route differs at all, the two best logits are equal to rounding.
    for route in (class_map, _class_map_torch):
        ours = route(logits, network_size, image_size)
        assert ours.dtype == np.uint8
        assert same_but_ties(ours, full)
        assert (ours != full.argmax(0).numpy()).mean() < 1e-4
    assert torch.equal(logits, before)


def test_ties_go_to_the_lower_class():
    logits = torch.zeros(19, 4, 4)
    assert (class_map(logits, (8, 8), (8, 8)) == 0).all()
    logits[18] = 1
    assert (class_map(logits, (8, 8), (16, 16)) == 18).all()


@pytest.mark.parametrize("image_size", [(97, 131), (16, 16)])
def test_mean_probabilities_are_those_of_all_channels_at_full_size(image_size):
    # At 16x16 the logits outgrow the image's channels, and are summed there.
    generator = torch.Generator().manual_seed(0)
    means = MeanProbabilities(image_size, 3)
    total = torch.zeros(19, *image_size)
    for size, network_size in (((30, 41), (120, 161)), ((8, 9), (30, 33)), ((64, 64), (64, 64))):
        logits = torch.randn(19, *size, generator=generator) * 5
        total += full_size(logits, network_size, image_size).softmax(0)
        means.add(logits, network_size)
    ours = means.class_map()
    assert ours.dtype == np.uint8
    assert same_but_ties(ours, total)


def _windows_of(size, protocol):
    """Corners of each window that the network sees (top, left, bottom, right)."""
    grid = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    seen = []

    def network(pixels):
        corners = pixels[0, :, 0, 0].tolist() + pixels[0, :, -1, -1].tolist()
        seen.append(tuple(int(corner) for corner in corners))
        return pixels

    sliding_logits(network, torch.stack(grid).float()[None], protocol)
    return seen


def test_windows_lie_where_mmsegmentation_puts_them():
    # 32 every 24: 0..32, 24..56, 48..80; 75 and 56 are the image's ends.
    rows = [(0, 31), (24, 55), (43, 74)]
    columns = [(0, 31), (24, 55)]
    expected = [(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    assert _windows_of((75, 56), SLIDE) == expected


@pytest.mark.parametrize("size", [(32, 32), (20, 30), (31, 33), (20, 100), (75, 56)])
def test_images_of_any_size_are_covered_and_networks_without_context_see_no_windows(size):
    seen = np.zeros(size, int)
    for top, left, bottom, right in _windows_of(size, SLIDE):
        assert (bottom - top, right - left) == (min(31, size[0] - 1), min(31, size[1] - 1))
        seen[top : bottom + 1, left : right + 1] += 1
    assert seen.min() >= 1
    pixels = torch.randn(2, 3, *size)
    torch.testing.assert_close(sliding_logits(lambda part: part * 2, pixels, SLIDE), pixels * 2)


def test_overlaps_are_the_mean_of_their_windows():
    numbers = iter(range(1, 100))

    def network(pixels):
        # A quarter of the size, as a SegFormer's; each window returns its number.
        return torch.full((1, 1, pixels.shape[2] // 4, pixels.shape[3] // 4), next(numbers) * 1.0)

    result = sliding_logits(network, torch.zeros(1, 3, 32, 56), SLIDE)[0, 0]
    expected = torch.tensor([1.0] * 24 + [1.5] * 8 + [2.0] * 24)
    assert result.equal(expected.expand(32, 56))


def test_a_window_as_large_as_the_image_changes_nothing(models):
    whole = predict(models[0], IMAGE, NATIVE)
    large = Protocol(max_size=None, window=96, stride=32)
    assert (predict(models[0], IMAGE, large) == whole).all()
    # Windows are cut from the resized image.
    protocol = Protocol(max_size=(48, 48), window=32, stride=24)
    assert network_sizes(SIZE, protocol) == ((32, 48),)
    small = predict(models[0], IMAGE, protocol)
    assert small.shape == SIZE
    assert (small != predict(models[0], IMAGE, SLIDE)).any()


def test_scales_multiply_the_max_size_or_the_image():
    sizes = network_sizes((1024, 2048), PROTOCOLS["multi-scale"])
    assert sizes == ((256, 512), (384, 768), (512, 1024), (640, 1280), (768, 1536), (896, 1792))
    native = Protocol(max_size=None, scales=(0.5, 1, 1.5))
    assert network_sizes((100, 80), native) == ((50, 40), (100, 80), (150, 120))
    assert prepare(random_image(100, 80), native, 1.5).shape[2:] == (150, 120)


@pytest.mark.parametrize("window", [None, 48])
def test_multi_scale_and_flip_average_the_probabilities_of_all_views(models, window):
    image, stride = random_image(60, 90), window and 32
    views = {"scales": (0.5, 1.0, 1.75), "flip": True}
    protocol = Protocol(max_size=(128, 64), window=window, stride=stride, **views)
    segmenter = model_segmenter(models[0])
    total = torch.zeros(19, 60, 90)
    with torch.inference_mode():
        for scale in protocol.scales:
            for flip in (False, True):
                pixels = prepare(image, protocol, scale)
                pixels = pixels.flip(-1) if flip else pixels
                logits = sliding_logits(segmenter.networks[0], pixels, protocol)[0]
                logits = full_size(logits, tuple(pixels.shape[2:]), (60, 90))
                total += (logits.flip(-1) if flip else logits).softmax(0)
    assert same_but_ties(segmenter.class_map(image, protocol), total / 6)


def test_flip_makes_the_result_equivariant(models):
    mirrored = np.ascontiguousarray(IMAGE[:, ::-1])

    def differ(protocol):
        there, back = predict(models[0], IMAGE, protocol), predict(models[0], mirrored, protocol)
        return (there != back[:, ::-1]).mean()

    assert differ(Protocol(max_size=None, flip=True)) < 1e-3
    assert differ(NATIVE) > 0.05


@pytest.mark.parametrize("combine", ["logits", "product", "probabilities"])
def test_outputs_are_combined_as_defined(models, combine):
    pixels = prepare(IMAGE, PROTOCOL)
    assert tuple(pixels.shape[2:]) == NETWORK
    with torch.inference_mode():
        logits = [model(pixel_values=pixels).logits[0] for model in models]
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
    pixels = prepare(IMAGE, PROTOCOL)
    with torch.inference_mode():
        stages = [model(pixels, output_hidden_states=True).hidden_states for model in models]
        means = tuple(torch.stack(stage).mean(0) for stage in zip(*stages, strict=True))
        expected = models[head - 1].decode_head(means)[0]
    ours = ensemble_segmenter(models, "features", head).class_map(IMAGE, PROTOCOL)
    assert same_but_ties(ours, full_size(expected, NETWORK, SIZE))


def test_each_field_changes_the_class_map_and_so_does_each_ensemble(models):
    windows = {"window": 32, "stride": 16}
    changes = [{}, {"scales": (0.5, 1.0)}, {"flip": True}, windows, {**windows, "stride": 32}]
    maps = [predict(models[0], IMAGE, Protocol(max_size=None, **change)) for change in changes]
    ways = [("logits", 1), ("probabilities", 1), ("features", 1), ("features", 2)]
    maps += [ensemble_segmenter(models, *way).class_map(IMAGE, PROTOCOL) for way in ways]
    maps += [predict(model, IMAGE, PROTOCOL) for model in models]
    assert len({one.tobytes() for one in maps}) == len(maps)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize(
    "protocol",
    [PROTOCOL, Protocol(max_size=None, window=48, stride=32, scales=(0.5, 1.0), flip=True)],
)
def test_an_ensemble_of_a_model_with_itself_is_the_model(models, combine, protocol):
    ours = ensemble_segmenter([models[0]] * 2, combine).class_map(IMAGE, protocol)
    assert (ours != predict(models[0], IMAGE, protocol)).mean() < 1e-3


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
    # Members of another size can be, by their logits alone.
    others = [models[0], tiny_model(0, hidden_sizes=[8, 16, 20, 64])]
    ensemble_segmenter(others, "logits").class_map(IMAGE, PROTOCOL)
    with pytest.raises(UserError, match="member 2 has \\[8, 16, 20, 64\\]"):
        ensemble_segmenter(others, "features")


@pytest.mark.parametrize(
    "image",
    [IMAGE[..., 0], np.dstack([IMAGE, IMAGE[..., :1]]), IMAGE.astype(np.float32) / 255],
    ids=["grey", "with alpha", "numbers from 0 to 1"],
)
def test_other_images_are_refused(image):
    with pytest.raises(UserError, match=r"\(H, W, 3\) of uint8"):
        predict(tiny_model(0), image)
