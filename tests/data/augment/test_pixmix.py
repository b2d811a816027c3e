"""PixMix: the original's and the paper's arithmetic, what is drawn, and the mixing images."""

import hashlib
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.augment import mixing, pixmix
from revt_hf.data.augment.transforms import apply_photometric
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric

WEIGHTS = [(0.8, 0.25), (0.3, 0.9), (1.4, -0.35), (1.9, -0.8)]
# Small exponents, where a zero's placeholder would show, and the ends of the Beta distributions.
EXTREMES = [*WEIGHTS, (0.01, 0.5), (0.0005, 0.9), (0.06, 0.1), (0.08, 0.999), (2.0, -1.0), (1.0, 0)]


@pytest.fixture(scope="module")
def images():
    golden = np.load(golden_file("pixmix_ops.npz"))
    return golden, golden["image"], golden["other"]


def reference(operation, x, y, a, b):
    """The paper's formulas as they are written, on 0..255 images, in float64."""
    x, y = x.astype(np.float64) / 255, y.astype(np.float64) / 255
    if operation == "add":
        mixed = (a * (x * 2 - 1) + b * (y * 2 - 1) + 1) / 2
    else:
        mixed = (x * 2) ** a * np.maximum(y * 2, 1e-37) ** b / 2
    return np.clip(mixed, 0, 1) * 255


@pytest.mark.parametrize(("a", "b"), WEIGHTS)
@pytest.mark.parametrize(
    ("name", "function"), [("add", pixmix.paper_code_add), ("multiply", pixmix.paper_code_multiply)]
)
def test_paper_code_matches_the_original(images, name, function, a, b):
    golden, image, other = images
    result = function(image.astype(np.float32), other.astype(np.float32), a, b)
    assert np.abs(result - golden[f"{name}_{a}_{b}"]).max() < 0.01
    if name == "add":
        np.testing.assert_allclose(pixmix.mix_add(image, other, a, b), result, atol=0.02)


@pytest.mark.parametrize(("a", "b"), EXTREMES)
@pytest.mark.parametrize("dtypes", ["uu", "uf", "fu", "ff"])
@pytest.mark.parametrize("name", ["add", "multiply"])
def test_default_operations_equal_the_papers(images, name, dtypes, a, b):
    image, other = images[1].copy(), images[2].copy()
    image[:4], other[2:6], image[8:12], other[10:14] = 0, 0, 255, 255
    x, y = (
        pixels if dtype == "u" else pixels.astype(np.float32) * 0.9
        for pixels, dtype in zip((image, other), dtypes, strict=True)
    )
    expected = reference(name, x, y, a, b)
    x.setflags(write=False)
    y.setflags(write=False)
    result = getattr(pixmix, f"mix_{name}")(x, y, a, b)
    assert result.dtype == np.float32
    assert 0 <= result.min() <= result.max() <= 255
    np.testing.assert_allclose(result, expected, atol=0.02)


def test_paper_code_wraps_8_bit_values():
    x = np.full((1, 1, 3), 200, np.uint8)
    middle = np.full((1, 1, 3), 127.5, np.float32)
    whole = x.astype(np.float32)
    for function, first, expected in (
        (pixmix.paper_code_add, x, 200),  # 200 * 2 wraps to 144, 144 - 255 to 145: (145 + 255) / 2
        (pixmix.paper_code_add, x // 2, 228),  # 100 * 2 - 255 wraps to 201: (201 + 255) / 2
        (pixmix.paper_code_add, whole / 2, 100),
        (pixmix.paper_code_multiply, x, 72),
        (pixmix.paper_code_multiply, whole, 200),
        (pixmix.mix_add, x // 2, 100),
    ):
        assert (function(first, middle, 1.0, 0.0) == expected).all()


def test_whole_mixing_equals_plain_numpy_within_a_grey_level(images):
    image = images[1].copy()
    image[:9] = np.arange(9, dtype=np.uint8)[:, None, None]
    fractal = mixing.GeneratedImages().draw(*image.shape[:2], random.Random(3))
    kinds = set()
    for seed in range(200):
        # A beta of 1 draws all weights alike, the small ones too.
        draws = pixmix.draw_pixmix(random.Random(seed), 4, 3.0 if seed % 2 else 1.0)
        mixed = image if draws.start is None else apply_photometric(image, draws.start)
        for step in draws.rounds:
            copy = fractal if step.operand is None else apply_photometric(image, step.operand)
            mixed = reference(step.operation, mixed, copy, step.a, step.b)
        assert np.abs(pixmix.apply_pixmix(image, draws, fractal) - mixed).max() <= 1
        kinds |= {(step.operation, step.operand is None) for step in draws.rounds}
        kinds.add((draws.start is None, not draws.rounds))
    assert len(kinds) == 8


def test_paper_code_darkens_and_reverses_the_mixing_image(images):
    _, image, other = images
    draws = pixmix.PixMixDraws(None, (pixmix.Round(None, "add", 0.8, 0.9),))
    expected = pixmix.paper_code_add(image, other[..., ::-1].astype(np.float32) / 255, 0.8, 0.9)
    result = pixmix.apply_pixmix(image, draws, other, paper_code=True)
    np.testing.assert_array_equal(result, expected)
    assert np.abs(result - pixmix.apply_pixmix(image, draws, other)).mean() > 10


def test_draws():
    drawn = np.array([pixmix.draw_weights(random.Random(seed), 3.0) for seed in range(6000)])
    inner = drawn[:, 1] >= 0
    # Beta(3, 1) has mean 3/4, Beta(1, 3) mean 1/4, both variance 3/80
    np.testing.assert_allclose(drawn[inner].mean(axis=0), (0.75, 0.25), atol=0.02)
    np.testing.assert_allclose(drawn[~inner].mean(axis=0), (1.25, -0.25), atol=0.02)
    assert abs(drawn[inner, 0].var() - 3 / 80) < 0.005
    draws = [pixmix.draw_pixmix(random.Random(seed), 4, 3.0) for seed in range(3000)]
    counts = np.bincount([len(d.rounds) for d in draws])
    assert len(counts) == 5
    assert counts.min() > 500
    rounds = [step for d in draws for step in d.rounds]
    for coin in (
        inner,
        [d.start is None for d in draws],
        [step.operand is None for step in rounds],
        [step.operation == "add" for step in rounds],
    ):
        assert 0.46 < np.mean(coin) < 0.54


def test_generated_images_are_complex_colourful_and_reproducible():
    images = [mixing.generate(0, index, 288) for index in range(9)]
    for image in images:
        assert (image.shape, image.dtype) == ((288, 288, 3), np.uint8)
        levels = image.astype(float)
        # Colourful: channels differ; structured: neighbours differ but are not noise.
        assert np.ptp(levels, axis=-1).mean() > 30
        assert 1 < np.abs(np.diff(levels, axis=1)).mean() < levels.std() > 30
    assert len({image.tobytes() for image in images}) == 9
    # They depend on seed and index only.
    assert not np.array_equal(mixing.generate(0, 1, 64), mixing.generate(1, 1, 64))
    code = (
        "import hashlib; from revt_hf.data.augment.mixing import generate;"
        "print(hashlib.sha256(generate(0, 2, 96).tobytes()).hexdigest())"
    )
    other = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert other.strip() == hashlib.sha256(mixing.generate(0, 2, 96).tobytes()).hexdigest()


def test_bank_draws_from_all_its_images_and_keeps_them():
    source = mixing.GeneratedImages(count=3, seed=5)
    first = source.draw(64, 80, random.Random(1))
    assert first.shape == (64, 80, 3)
    np.testing.assert_array_equal(first, source.draw(64, 80, random.Random(1)))
    bases = {id(source.draw(32, 32, random.Random(seed)).base) for seed in range(30)}
    assert len(bases) == 3
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0


@pytest.mark.parametrize("size", [(512, 512), (700, 30), (576, 576)])
@pytest.mark.parametrize("shape", [(40, 90, 3), (900, 700, 3), (576, 576, 3)])
def test_crops_have_any_size_and_position(shape, size):
    image = np.zeros(shape, np.uint8)
    image[:, shape[1] // 2 :] = 255
    crops = [mixing.random_crop(image, *size, random.Random(seed)) for seed in range(20)]
    assert {crop.shape for crop in crops} == {(*size, 3)}
    if shape[1] > shape[0]:
        # The short side becomes 576 at least, so the bright half begins at another column of each.
        assert len({int((crop[0, :, 0] > 127).sum()) for crop in crops}) > 1


def test_folder_is_searched_recursively_and_gives_rgb(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 2] = 250  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "deep" / "er" / "red.PNG"), red)
    (tmp_path / "notes.txt").write_text("not an image")
    cv2.imwrite(str(tmp_path / "blue.png"), red[..., ::-1])
    source = mixing.mixing_images(tmp_path)
    assert source.draw(32, 48, random.Random(0)).shape == (32, 48, 3)
    seen = {tuple(source.draw(8, 8, random.Random(seed))[0, 0].tolist()) for seed in range(20)}
    assert seen == {(250, 0, 0), (0, 0, 250)}


def test_folder_errors(tmp_path):
    for folder, words in ((tmp_path / "missing", "no folder"), (tmp_path, "no image file")):
        with pytest.raises(UserError, match=words):
            mixing.mixing_images(folder)
    for data in (b"no image", b""):
        (tmp_path / "broken.png").write_bytes(data)
        with pytest.raises(UserError, match=r"broken\.png"):
            mixing.FractalFolder(tmp_path).draw(8, 8, random.Random(0))
