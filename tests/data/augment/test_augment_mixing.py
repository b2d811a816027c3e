"""Mixing images: generated ones are colourful and reproducible, a folder's are read as RGB."""

import hashlib
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.augment.mixing import (
    FractalFolder,
    GeneratedImages,
    generate,
    mixing_images,
    random_crop,
)


def test_generated_images_are_complex_and_colourful():
    images = [generate(0, index, 288) for index in range(9)]
    for image in images:
        assert (image.shape, image.dtype) == ((288, 288, 3), np.uint8)
        levels = image.astype(float)
        assert levels.std() > 30
        # Colourful: channels differ; structured: neighbours differ but are not noise.
        assert np.ptp(levels, axis=-1).mean() > 30
        steps = np.abs(np.diff(levels, axis=1)).mean()
        assert 1 < steps < levels.std()
    assert len({image.tobytes() for image in images}) == 9


def test_generated_images_depend_on_seed_and_index_only():
    assert not np.array_equal(generate(0, 1, 64), generate(1, 1, 64))
    code = (
        "import hashlib; from revt_hf.data.augment.mixing import generate;"
        "print(hashlib.sha256(generate(0, 2, 96).tobytes()).hexdigest())"
    )
    other = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert other.strip() == hashlib.sha256(generate(0, 2, 96).tobytes()).hexdigest()


def test_bank_draws_from_all_its_images_and_keeps_them():
    source = GeneratedImages(count=3, seed=5)
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
    crops = [random_crop(image, *size, random.Random(seed)) for seed in range(20)]
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
    source = mixing_images(tmp_path)
    assert source.draw(32, 48, random.Random(0)).shape == (32, 48, 3)
    seen = {tuple(source.draw(8, 8, random.Random(seed))[0, 0].tolist()) for seed in range(20)}
    assert seen == {(250, 0, 0), (0, 0, 250)}


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        mixing_images(tmp_path / "missing")
    with pytest.raises(UserError, match="no image file"):
        mixing_images(tmp_path)
    for data in (b"no image", b""):
        (tmp_path / "broken.png").write_bytes(data)
        with pytest.raises(UserError, match=r"broken\.png"):
            FractalFolder(tmp_path).draw(8, 8, random.Random(0))
