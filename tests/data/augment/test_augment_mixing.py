import hashlib
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.augment.generated import generate
from revt_hf.data.augment.mixing import (
    FractalFolder,
    GeneratedImages,
    mixing_images,
    random_crop,
)


def test_generated_images_are_complex_and_colourful():
    images = [generate(0, index, 288) for index in range(9)]
    for image in images:
        assert image.shape == (288, 288, 3)
        assert image.dtype == np.uint8
        levels = image.astype(float)
        assert levels.std() > 30
        # Colourful: channels differ; structured: neighbours differ but are not noise.
        assert np.ptp(levels, axis=-1).mean() > 30
        steps = np.abs(np.diff(levels, axis=1)).mean()
        assert 1 < steps < levels.std()
    assert len({image.tobytes() for image in images}) == 9


def test_generated_images_depend_on_seed_and_index_only():
    np.testing.assert_array_equal(generate(0, 1, 64), generate(0, 1, 64))
    assert not np.array_equal(generate(0, 1, 64), generate(1, 1, 64))
    code = (
        "import hashlib; from revt_hf.data.augment.generated import generate;"
        "print(hashlib.sha256(generate(0, 2, 96).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert other.stdout.strip() == hashlib.sha256(generate(0, 2, 96).tobytes()).hexdigest()


def test_bank_draws_from_all_its_images_and_keeps_them():
    source = GeneratedImages(count=3, seed=5)
    first = source.draw(64, 80, random.Random(1))
    assert first.shape == (64, 80, 3)
    np.testing.assert_array_equal(first, source.draw(64, 80, random.Random(1)))
    bases = {id(source.draw(32, 32, random.Random(seed)).base) for seed in range(30)}
    assert len(bases) == 3
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0


@pytest.mark.parametrize("size", [(512, 512), (600, 640), (700, 30), (576, 576)])
@pytest.mark.parametrize("shape", [(40, 90, 3), (900, 700, 3), (576, 576, 3)])
def test_crops_cover_any_size(shape, size):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for seed in range(3):
        assert random_crop(image, *size, random.Random(seed)).shape == (*size, 3)


def test_crop_scales_the_short_side():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 150:] = 255
    # Scaled to 576x1728, the right half begins at 864: a window of 576 either sees it or not.
    columns = {
        int((random_crop(image, 576, 576, random.Random(seed))[0, :, 0] > 127).sum())
        for seed in range(20)
    }
    assert len(columns) > 5
    assert max(columns) <= 576


def test_folder_is_searched_recursively_and_gives_rgb(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 2] = 250  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "deep" / "er" / "red.PNG"), red)
    (tmp_path / "notes.txt").write_text("not an image")
    source = FractalFolder(tmp_path)
    image = source.draw(32, 48, random.Random(0))
    assert image.shape == (32, 48, 3)
    assert tuple(image[0, 0]) == (250, 0, 0)
    cv2.imwrite(str(tmp_path / "blue.png"), red[..., ::-1])
    source = mixing_images(tmp_path)
    seen = {tuple(source.draw(8, 8, random.Random(seed))[0, 0].tolist()) for seed in range(20)}
    assert seen == {(250, 0, 0), (0, 0, 250)}


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        mixing_images(tmp_path / "missing")
    with pytest.raises(UserError, match="no image file"):
        mixing_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png"):
        FractalFolder(tmp_path).draw(8, 8, random.Random(0))
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"broken\.png"):
        FractalFolder(tmp_path).draw(8, 8, random.Random(0))
