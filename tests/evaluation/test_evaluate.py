"""The scoring loop: batches, workers and shared decoding change nothing but the time."""

import weakref

import evaluate as evaluate_library
import pytest

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.evaluation import evaluate as loop
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.evaluate import EvaluateOptions, as_segmenter, score_images
from revt_hf.evaluation.loading import image_batches
from revt_hf.evaluation.metric import MeanIoU, scores_from
from revt_hf.evaluation.result import EnsembleInfo, SplitSpec
from revt_hf.models.load import network_sha256
from tests.helpers.networks import row, tiny_model

SPLIT = SplitSpec(DomainSpec(domain="streets"), "val", is_source=False)
SIZES = [(64, 96), (64, 96), (64, 96), (32, 64), (64, 96), (128, 192), (48, 48)]
IMAGES = [row(*size, seed) for seed, size in enumerate(SIZES)]
PROTOCOL = Protocol(max_size=(96, 64))


def evaluated(models, images=IMAGES, on_image=lambda: None, **options):
    options = EvaluateOptions(quiet=True, **options)
    return loop.evaluate(models, [(SPLIT, images)], PROTOCOL, options, on_image)


@pytest.fixture(scope="module")
def models():
    return {"first": tiny_model(0), "second": tiny_model(1)}


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (1, 2), (4, 2)])
def test_batches_and_workers_give_identical_matrices(models, monkeypatch, batch_size, workers):
    matrices, ticks = [], []
    monkeypatch.setattr(
        loop, "scores_from", lambda m, *s: matrices.append(m.copy()) or scores_from(m, *s)
    )
    evaluated(models, on_image=lambda: ticks.append(1), batch_size=batch_size, workers=workers)
    assert len(ticks) == len(IMAGES)
    assert len(matrices) == 2
    for matrix, model in zip(matrices, models.values(), strict=True):
        ((alone,),) = score_images([as_segmenter(model)], IMAGES, PROTOCOL)
        assert (matrix == alone.matrix).all()
        assert matrix.sum() == sum((one["label"] != 255).sum() for one in IMAGES)


def test_scoring_needs_no_folder_that_can_be_written(models, monkeypatch, tmp_path):
    """``evaluate.Metric`` makes one below HF_HOME."""
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "metrics"
    monkeypatch.setattr(evaluate_library.config, "HF_METRICS_CACHE", cache)
    with pytest.raises(OSError, match="file"):
        MeanIoU()
    assert evaluated(models, IMAGES[:1])[0].scores[0].images == 1


def test_images_of_one_network_size_go_together(models):
    def groups(protocol, batch_size):
        batches = image_batches(IMAGES, range(len(IMAGES)), protocol, batch_size, 0)
        return [[int(one["name"]) for one in batch] for batch in batches]

    assert groups(Protocol(max_size=None), 2) == [[0, 1], [2], [3], [4], [5], [6]]
    # 64x96 and 128x192 are the same once they are resized.
    assert groups(PROTOCOL, 4) == [[0, 1, 2], [3], [4, 5], [6]]
    assert groups(PROTOCOL, 1) == [[n] for n in range(7)]
    # The networks get them whole.
    sizes = []
    handle = models["first"].register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    evaluated(models, batch_size=4)
    handle.remove()
    assert sizes == [3, 1, 2, 1]


class Counted:
    """Images that are made when asked for; counts reads, and images alive at once."""

    def __init__(self, number):
        self.number, self.reads, self.most, self.alive = number, 0, 0, []

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        made = row(32, 64, index)
        self.reads += 1
        self.alive = [ref for ref in self.alive if ref() is not None]
        self.alive.append(weakref.ref(made["image"]))
        self.most = max(self.most, len(self.alive))
        return made


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_decode_for_all_and_memory_does_not_grow_with_the_images(models, batch_size):
    images = Counted(12)
    ensemble = ensemble_segmenter(list(models.values()), "probabilities")
    results = evaluated({**models, "both": ensemble}, images, batch_size=batch_size)
    assert images.reads == 12
    # The last batch, this one, and the image that did not fit into it.
    assert images.most <= 2 * batch_size + 1
    assert [result.scores[0].images for result in results] == [12] * 3


def test_rows_of_ensembles_say_what_they_are(models):
    members = list(models.values())
    scored = {
        "single": members[0],
        "mean": ensemble_segmenter(members, "logits"),
        "features": ensemble_segmenter(members, "features", 2),
    }
    digests = tuple(network_sha256(member) for member in members)
    results = evaluated(scored, IMAGES[:2])
    assert [(one.model, one.network_sha256, one.ensemble) for one in results] == [
        ("single", digests[:1], None),
        ("mean", digests, EnsembleInfo(members=2, combine="logits")),
        ("features", digests, EnsembleInfo(members=2, combine="features", head=2)),
    ]
    assert {one.protocol for one in results} == {PROTOCOL}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_sentence(models, workers):
    class Broken(Counted):
        def __getitem__(self, index):
            if index == 2:
                raise UserError("streets/2.png is truncated")
            return super().__getitem__(index)

    with pytest.raises(UserError) as caught:
        evaluated(models, Broken(4), workers=workers)
    assert str(caught.value) == "streets/2.png is truncated"


def test_models_are_paths_once_each_or_named(models):
    with pytest.raises(UserError, match="model a/ is listed twice, the other time as a: list it"):
        loop.evaluate(["a", "a/"], [(SPLIT, IMAGES)], PROTOCOL)
    with pytest.raises(UserError, match="pass a protocol"):
        loop.evaluate(models, [(SPLIT, IMAGES)])


@pytest.mark.parametrize("nothing", [[], {}, "runs/base"])
def test_models_are_listed(nothing):
    with pytest.raises(UserError, match="pass a list of models"):
        loop.evaluate(nothing, [(SPLIT, IMAGES)], PROTOCOL)
