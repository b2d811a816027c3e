"""Calibration by hand, by an exact sort, and of the probabilities that predictions are made of."""

import json
import math

import numpy as np
import pytest
import torch

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.label_space import CITYSCAPES
from revt_hf.evaluation.calibration import RELIABILITY_BINS
from revt_hf.evaluation.class_maps import MeanProbabilities
from revt_hf.evaluation.confidence import ConfidenceSums
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate, score_images
from revt_hf.evaluation.predictor import model_segmenter, prepare, sliding_logits
from revt_hf.evaluation.result import SplitSpec, read_results, write_results
from tests.helpers.command_line import revt
from tests.helpers.families import network
from tests.helpers.networks import NATIVE, STREETS, full_size, row, saved, tiny_model

pytestmark = pytest.mark.numeric

SPLIT = SplitSpec(DomainSpec(domain="streets"), "val", is_source=False)
IMAGES = [row(64, 96, 0), row(48, 48, 1)]
IGNORED = 255


def exact(probabilities, labels, predictions):
    """The scores of probabilities (N, C) by their definitions, in float64 and with a sort.

    Of the labels (N,) 255 is ignored; ``predictions`` (N,) are columns.
    """
    kept = labels != IGNORED
    p, labels, predictions = probabilities[kept], labels[kept], predictions[kept]
    at = np.arange(len(labels))
    right, confidence = labels == predictions, p[at, predictions]
    rest = p.copy()
    rest[at, predictions] = 0
    odds = np.log(confidence) - np.log(rest.sum(1))
    bins = np.ceil(confidence * 15 - 1e-6).astype(int) - 1
    ece = sum(abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in range(15))
    one_hot = np.eye(p.shape[1])[labels]
    return {
        "ece": 100 * ece / len(p),
        "brier": ((p - one_hot) ** 2).sum(1).mean(),
        "nll": -np.log(p[at, labels]).mean(),
        "auroc": exact_auroc(odds, right),
        "aurc": exact_aurc(odds, right),
    }


def exact_auroc(odds, right):
    wrong = np.sort(odds[~right])
    below, up_to = (np.searchsorted(wrong, odds[right], side).sum() for side in ("left", "right"))
    return 100 * (below + up_to) / 2 / (right.sum() * (~right).sum())


def exact_aurc(odds, right):
    """Each pixel in turn; among equals, a pixel is as wrong as their mean."""
    _, group = np.unique(-odds, return_inverse=True)
    order = np.argsort(group, kind="stable")
    means = np.bincount(group, ~right) / np.bincount(group)
    return 100 * (means[group[order]].cumsum() / np.arange(1, len(right) + 1)).mean()


def counted(probabilities, labels, predictions=None, table=None, classes=None):
    """The sums of pixels (N, C), as an image of two rows."""
    strips = torch.from_numpy(probabilities.T.reshape(probabilities.shape[1], 2, -1)).float()
    predictions = probabilities.argmax(1) if predictions is None else predictions
    sums = ConfidenceSums()
    maps = (one.astype(np.uint8).reshape(2, -1) for one in (labels, predictions))
    sums.add(*maps, strips.split(1, dim=1), classes or probabilities.shape[1], table)
    return sums


def close(found, wanted, **tolerance):
    tolerance = tolerance or {"abs": 2e-3, "rel": 1e-5}
    for name, value in wanted.items():
        assert getattr(found, name) == pytest.approx(value, **tolerance), name


PIXELS = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.6, 0.3, 0.1],
        [0.1, 0.8, 0.1],
        [0.5, 0.25, 0.25],
        [0.2, 0.2, 0.6],
        [0.3, 0.1, 0.6],
        [0.9, 0.05, 0.05],
        [0.05, 0.9, 0.05],
    ]
)
# The last two are ignored. Right are the confidences .7, .8, .5 and .6; wrong are .6 and .6.
LABELS = np.array([0, 1, 1, 0, 0, 2, IGNORED, IGNORED])


def test_scores_by_hand():
    found = counted(PIXELS, LABELS).calibration()
    # Bins: .8 and .7 and .5 alone, and three of .6 of which one is right.
    assert found.ece == pytest.approx(100 * (0.2 + 0.3 + 0.5 + abs(1 - 1.8)) / 6)
    squares = [0.14, 0.86, 0.06, 0.375, 1.04, 0.26]
    assert found.brier == pytest.approx(sum(squares) / 6)
    likelihoods = [0.7, 0.3, 0.8, 0.5, 0.2, 0.6]
    assert found.nll == pytest.approx(-sum(map(math.log, likelihoods)) / 6)
    # Each wrong one lies below two right ones and ties with one, of four.
    assert found.auroc == pytest.approx(100 * 2.5 / 4)
    # .8 and .7 are right; then, on average over orders, two thirds of .6; then .5.
    risks = [0, 0, 2 / 3 / 3, 4 / 3 / 4, 2 / 5, 2 / 6]
    assert found.aurc == pytest.approx(100 * sum(risks) / 6)
    shown = {n: (b.pixels, b.right, b.confidence) for n, b in enumerate(found.bins) if b.pixels}
    assert shown == {
        7: (1, 1, pytest.approx(50)),
        8: (3, 1, pytest.approx(60)),
        10: (1, 1, pytest.approx(70)),
        11: (1, 1, pytest.approx(80)),
    }
    assert (len(found.bins), found.bins[0].confidence) == (RELIABILITY_BINS, None)


def test_one_mind_is_scored_as_far_as_it_can_be():
    right = counted(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])).calibration()
    assert (right.ece, right.brier, right.nll, right.auroc, right.aurc) == (0, 0, 0, None, 0)
    wrong = counted(np.eye(3)[[0, 1, 2, 0]], np.array([1, 2, 0, 1])).calibration()
    assert (wrong.ece, wrong.brier, wrong.auroc, wrong.aurc) == (100, 2, None, 100)
    # The smallest probability that counts is that of float32.
    assert wrong.nll == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))


def _overconfident(count, seed=0):
    """Logits (N, 19) far apart, as of trained networks, and labels that follow them by half."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 19)) * rng.gamma(2, 7, size=(count, 1))
    noisy = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(1)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), np.where(rng.random(count) < 0.1, IGNORED, noisy)


def test_ranks_are_within_the_stated_bounds_of_an_exact_sort():
    p, labels = _overconfident(200_000)
    sums, wanted = counted(p, labels), exact(p, labels, p.argmax(1))
    found = sums.calibration()
    close(found, {name: wanted[name] for name in ("ece", "brier", "nll")}, rel=1e-4)
    wrong, right = sums.ranked.astype(float)
    total = wrong.sum() + right.sum()
    bound = 50 * (wrong * right).sum() / wrong.sum() / right.sum()
    assert abs(found.auroc - wanted["auroc"]) < bound < 0.01
    before = (wrong + right)[::-1].cumsum()[::-1] - (wrong + right)
    bound = 50 * (wrong * right / (before + 1)).sum() / total
    assert abs(found.aurc - wanted["aurc"]) < bound < 0.01
    # Pixels whose confidence is 1 in float32 are still ranked.
    kept = p[p.max(1).astype(np.float32) == 1]
    kept = kept[: len(kept) // 2 * 2]
    assert len(kept) > 10_000
    assert np.count_nonzero(counted(kept, np.zeros(len(kept))).ranked) > 5_000


def test_ties_are_exact():
    """Confidences of few values: bins and ties are the same."""
    rng = np.random.default_rng(1)
    top = rng.choice([0.5, 0.6, 0.9, 0.99, 0.999], 50_000)
    p = np.stack([top, 1 - top], 1)
    labels = (rng.random(50_000) > top * 0.9).astype(int)
    predictions = np.zeros(50_000, int)
    found, wanted = counted(p, labels, predictions).calibration(), exact(p, labels, predictions)
    # Of one value for all, the sort in float64 sees what rounding left of 1 - p.
    assert found.auroc == pytest.approx(wanted["auroc"], abs=1e-6)
    assert found.aurc == pytest.approx(wanted["aurc"], abs=1e-6)


def test_sums_of_images_are_those_of_all_pixels():
    p, labels = _overconfident(4_000)
    whole = counted(p, labels)
    halves = [counted(p[half], labels[half]) for half in (slice(0, 1500), slice(1500, None))]
    for name, values in vars(whole).items():
        np.testing.assert_allclose(sum(getattr(half, name) for half in halves), values, rtol=1e-9)


@pytest.fixture(scope="module")
def models():
    return [tiny_model(seed) for seed in range(2)]


VIEWS = Protocol(max_size=None, window=32, stride=24, scales=(0.75, 1.0), flip=True)
PAPER = Protocol(max_size=(72, 48))


def _definition(models, combine, protocol, image):
    """Probabilities (C, H, W), float64, of all channels at full size."""
    size, total, views = image.shape[:2], 0, 0
    for scale in protocol.scales:
        for flip in (False, True)[: 1 + protocol.flip]:
            pixels = prepare(image, protocol, scale)
            pixels = pixels.flip(-1) if flip else pixels
            if combine == "features":
                networks = ensemble_segmenter(models, "features").networks
            else:
                networks = [model_segmenter(model).networks[0] for model in models]
            with torch.inference_mode():
                logits = [sliding_logits(one, pixels, protocol)[0].double() for one in networks]
            if combine in ("logits", "product"):
                logits = [sum(logits) / len(logits)]
            full = [full_size(one, tuple(pixels.shape[2:]), size).softmax(0) for one in logits]
            mean = sum(full) / len(full)
            total = total + (mean.flip(-1) if flip else mean)
            views += 1
    return (total / views).numpy()


@pytest.mark.parametrize("protocol", [NATIVE, PAPER, VIEWS], ids=["native", "resized", "views"])
@pytest.mark.parametrize("combine", [None, "logits", "product", "probabilities", "features"])
def test_probabilities_are_those_that_the_prediction_is_made_of(models, combine, protocol):
    members = models if combine else models[:1]
    segmenter = ensemble_segmenter(members, combine) if combine else model_segmenter(members[0])
    options = EvaluateOptions(quiet=True, calibration=True)
    (result,) = evaluate({"x": segmenter}, [(SPLIT, IMAGES)], protocol, options)
    pixels, labels, predictions = [], [], []
    for one in IMAGES:
        found = _definition(members, combine, protocol, one["image"])
        pixels.append(found.reshape(19, -1).T)
        labels.append(one["label"].reshape(-1))
        predictions.append(segmenter.class_map(one["image"], protocol).reshape(-1))
    wanted = exact(*map(np.concatenate, (pixels, labels, predictions)))
    # Many confidences of these networks are 0.5 up to rounding, which float32 takes for ties.
    close(result.scores[0].calibration, wanted, rel=5e-4, abs=0.05)
    # The rest of the result is that without calibration.
    (plain,) = evaluate({"x": segmenter}, [(SPLIT, IMAGES)], protocol, EvaluateOptions(quiet=True))
    bare = [one.model_copy(update={"calibration": None}) for one in result.scores]
    assert result.model_copy(update={"scores": tuple(bare)}) == plain


def test_low_precision_logits_get_a_float32_softmax():
    logits = torch.tensor([9.0, 1.0, -3.0], dtype=torch.bfloat16)[:, None, None].expand(3, 4, 4)
    mean = MeanProbabilities((4, 4), 1)
    mean.add(logits, (4, 4))
    (strip,) = mean.strips()
    assert strip.dtype == torch.float32
    torch.testing.assert_close(strip[:, 0, 0], torch.tensor([9.0, 1.0, -3.0]).softmax(0))


def test_classes_that_count_as_one_are_summed_and_none_is_a_class():
    # Of the model's a, b, c, d: a and b count as 0, c as 1, d as nothing.
    table = np.full(256, 255, np.uint8)
    table[:4] = [0, 0, 1, 255]
    p = np.array(
        [[0.3, 0.2, 0.4, 0.1], [0.1, 0.1, 0.2, 0.6], [0.1, 0.3, 0.5, 0.1], [0.7, 0, 0, 0.3]]
    )
    labels = np.array([0, 1, 0, 0])
    predictions = table[p.argmax(1)]
    assert predictions.tolist() == [1, 255, 1, 0]
    found = counted(p, labels, predictions, table, classes=2).calibration()
    mapped = np.array([[0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.4, 0.5, 0.1], [0.7, 0, 0.3]])
    wanted = exact(mapped, labels, np.array([1, 2, 1, 0]))
    close(found, wanted, abs=0.06)
    assert found.brier == pytest.approx(wanted["brier"])
    assert found.nll == pytest.approx(-np.log([0.5, 0.2, 0.4, 0.7]).mean())
    # The confidence is that of the class that is predicted, and of none where none is.
    assert sorted(b.confidence for b in found.bins if b.pixels) == pytest.approx([40, 50, 60, 70])


def test_a_labelled_class_without_a_counterpart_has_no_finite_likelihood():
    table = np.full(256, 255, np.uint8)
    table[:2] = [0, 255]
    p = np.array([[0.9, 0.1], [0.8, 0.2]])
    lacking = counted(p, np.array([0, 1]), np.zeros(2), table, classes=2).calibration()
    assert lacking.nll is None
    assert lacking.brier == pytest.approx((2 * 0.01 + 0.64 + 1 + 0.04) / 2)
    assert lacking.auroc == 100
    # Where nothing is labelled so, there is one.
    found = counted(p, np.array([0, IGNORED]), np.zeros(2), table, classes=2).calibration()
    assert found.nll == pytest.approx(-math.log(0.9))


def test_a_mapped_model_is_scored_by_its_mapped_probabilities(models):
    """Roads and pavements of the model count as one; the rest by name."""
    kept = {name: name for name in CITYSCAPES.classes} | {"sidewalk": "road", "sky": None}
    mapping = ClassMapping(name="m", classes=kept)
    segmenter = model_segmenter(models[0]).mapped(mapping, CITYSCAPES)
    image = IMAGES[0]
    label = np.where(np.isin(image["label"], [1, 10]), 255, image["label"]).astype(np.uint8)
    ((sums,),) = score_images([segmenter], [{**image, "label": label}], NATIVE, calibration=True)
    own = _definition(models[:1], None, NATIVE, image["image"]).reshape(19, -1).T
    mapped = np.concatenate([own, own[:, 10:11]], 1)
    mapped[:, 0] += own[:, 1]
    mapped[:, [1, 10]] = 0
    predictions = segmenter.class_map(image["image"], NATIVE).reshape(-1)
    predictions = np.where(predictions == 255, 19, predictions)
    wanted = exact(mapped, label.reshape(-1), predictions)
    close(sums.confidence.calibration(), wanted, rel=5e-4, abs=0.02)


def test_scores_of_masks_are_refused_before_images_are_read(monkeypatch):
    monkeypatch.setattr("revt_hf.evaluation.evaluate.load_labelled", pytest.fail)
    options = EvaluateOptions(quiet=True, calibration=True)
    with pytest.raises(UserError, match=r"x \(EoMT\) has scores of masks.*leave out calibration"):
        evaluate({"x": network("eomt")}, [SPLIT], NATIVE, options)


def test_without_a_labelled_pixel_there_is_nothing_to_score(models):
    nothing = {**IMAGES[0], "label": np.full((64, 96), IGNORED, np.uint8)}
    options = EvaluateOptions(quiet=True, calibration=True)
    with pytest.raises(UserError, match="no labelled pixel was counted"):
        evaluate({"x": models[0]}, [(SPLIT, [nothing])], NATIVE, options)


def test_files_without_calibration_are_as_before(models, tmp_path):
    for calibration in (False, True):
        options = EvaluateOptions(quiet=True, calibration=calibration)
        results = evaluate({"x": models[0]}, [(SPLIT, IMAGES)], NATIVE, options)
        write_results(tmp_path / f"{calibration}.json", results)
    (plain,), (with_it,) = (
        json.loads((tmp_path / f"{one}.json").read_text())["results"][0]["scores"]
        for one in (False, True)
    )
    assert list(with_it) == [*plain, "calibration"]
    assert {**with_it, "calibration": None} == {**plain, "calibration": None}
    (read,) = read_results([tmp_path / "True.json"])
    assert read.scores == results[0].scores
    # Published files have the scores alone.
    (compact,) = read.compact().scores
    assert compact.calibration == read.scores[0].calibration.model_copy(update={"bins": ()})


@pytest.mark.parametrize(
    ("bins", "words"),
    [
        ([{"pixels": 2, "right": 3, "confidence": 50}], "3 of 2 pixels are right"),
        ([{"pixels": 2, "right": 1}], "confidence of None: this cannot be"),
        ([{"pixels": 0, "right": 0, "confidence": 50}], "0 of 0 pixels are right"),
        ([{"pixels": 0, "right": 0}], "its bins hold no pixel"),
    ],
)
def test_bins_that_no_count_gives_are_refused(models, tmp_path, bins, words):
    options = EvaluateOptions(quiet=True, calibration=True)
    path = tmp_path / "results.json"
    write_results(path, evaluate({"m": models[0]}, [(SPLIT, IMAGES)], NATIVE, options))
    values = json.loads(path.read_text())
    values["results"][0]["scores"][0]["calibration"]["bins"] = bins
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=words):
        read_results([path])


def test_the_command_scores_prints_and_writes_them(tmp_path, capsys):
    model = saved(tmp_path / "a")
    data = ["--domain", "streets", "--option", "val_images=2", "--option", "size=[64, 128]"]
    command = ("evaluate", f"a={model}", *data, "--max-size", "native", "--calibration")
    code, out, error = revt(capsys, *command, "--json", tmp_path / "r.json", "--quiet")
    assert code == 0, error
    (result,) = read_results([tmp_path / "r.json"])
    known = result.scores[0].calibration
    assert "ECE" in out and f"{known.ece:.2f}" in out and f"{known.aurc:.2f}" in out
    splits = [SplitSpec(DomainSpec(domain="streets", options=STREETS), "val", is_source=False)]
    options = EvaluateOptions(quiet=True, calibration=True)
    assert evaluate({"a": model}, splits, NATIVE, options)[0].scores == result.scores


def test_sums_where_there_is_no_float64(monkeypatch):
    """As on Apple's GPUs: what is counted there is summed on the CPU."""
    p, labels = _overconfident(400)
    moved = []

    class Apple:
        device = torch.device("mps")

        def __init__(self, planes):
            self.planes = planes

        def cpu(self):
            moved.append(1)
            return self.planes

    cat = torch.cat
    wanted = counted(p, labels).calibration()
    monkeypatch.setattr(
        torch, "cat", lambda parts, dim=0: Apple(cat(parts, dim)) if dim else cat(parts, dim)
    )
    assert counted(p, labels).calibration() == wanted
    assert moved == [1]
