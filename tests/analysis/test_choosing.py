"""Soups, weights and leave-one-out, where the right answer is known."""

import numpy as np
import pytest

from revt_hf.analysis.blending import Blend, Blender, HeadScore
from revt_hf.analysis.choosing import (
    Candidate,
    MergeScorer,
    greedy_soup,
    leave_one_out,
    projected,
    search_weights,
)
from revt_hf.core.errors import UserError
from revt_hf.evaluation.predictor import predict
from tests.helpers.networks import NATIVE, changed, data_of, rows, saved


class _Known:
    """A scorer whose mIoU is a function of the weights."""

    def __init__(self, members, miou):
        self.members = tuple(range(1, members + 1))
        self._miou = miou
        self.asked = []

    def mean(self, members):
        weights = [float(number in members) / len(members) for number in self.members]
        return self._scored(tuple(members), None, weights)

    def weighted(self, weights):
        return self._scored(self.members, tuple(weights), weights)

    def _scored(self, members, given, weights):
        self.asked.append(tuple(weights))
        score = HeadScore(loss=0.0, miou=float(self._miou(np.array(weights))))
        return Candidate(members, given, {members[0]: score})


def test_the_soup_adds_the_best_first_and_leaves_out_what_lowers_it():
    # The third is the best alone, the second helps it, the first ruins every mean.
    choice = greedy_soup(_Known(3, lambda w: 50 * w[2] + 45 * w[1] + 20 * w[1] * w[2] - 30 * w[0]))
    assert choice.chosen.members == (3, 2)
    tried = [candidate.members for candidate in choice.tried]
    assert tried == [(1,), (2,), (3,), (3, 2), (3, 2, 1)]
    # An equal member is added, and a member that none helps stays alone.
    assert greedy_soup(_Known(2, lambda w: 40.0)).chosen.members == (1, 2)
    assert greedy_soup(_Known(2, lambda w: 40 * abs(w[0] - w[1]))).chosen.members == (1,)


def test_leave_one_out_tells_what_each_member_adds():
    choice = leave_one_out(_Known(3, lambda w: 30 * w[0] + 60 * w[1] + 90 * w[2]))
    assert choice.values == pytest.approx({1: 60 - 75, 2: 0, 3: 60 - 45})
    assert choice.chosen.members == (2, 3)
    with pytest.raises(UserError, match="at least three members"):
        leave_one_out(_Known(2, lambda w: 1.0))


@pytest.mark.parametrize("best", [(0.21, 0.68, 0.11), (1.0, 0.0, 0.0), (0.0, 0.37, 0.63)])
def test_the_search_comes_near_the_best_weights_within_its_budget(best):
    scorer = _Known(3, lambda w: 50 - 100 * np.sum((w / w.sum() - best) ** 2))
    choice = search_weights(scorer, 60)
    assert len(set(scorer.asked)) == len(scorer.asked) == len(choice.tried) <= 60
    assert np.abs(np.array(choice.chosen.weights) - best).max() < 0.03
    # A small budget is the corners alone.
    choice = search_weights(_Known(4, lambda w: w[2]), 4)
    assert len(choice.tried) == 4
    assert choice.chosen.weights == (0, 0, 1, 0)
    with pytest.raises(UserError, match="--evaluations 3"):
        search_weights(_Known(4, lambda w: w[2]), 3)


@pytest.mark.parametrize(
    ("values", "nearest"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([2.0, 0.0, -1.0], [1, 0, 0]),
        ([0.6, 0.6, -0.2], [0.5, 0.5, 0]),
    ],
)
def test_projection_onto_the_weights(values, nearest):
    np.testing.assert_allclose(projected(np.array(values)), nearest, atol=1e-12)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A broken member and two that are near each other."""
    root = tmp_path_factory.mktemp("networks")
    generator = np.random.default_rng(0)

    def near(_, tensor):
        return tensor * (1 + 0.05 * generator.standard_normal(tensor.shape))

    def broken(name, tensor):
        drawn = generator.standard_normal(tensor.shape)
        return np.abs(drawn) if name.endswith("running_var") else drawn

    first = saved(root / "first")
    return [changed(first, root / "broken", broken), first, changed(first, root / "near", near)]


def _labelled_by(networks, blend, head):
    """Two images on which this blend is right everywhere."""
    with Blender(networks) as blender:
        blender.blend_encoder(blend)
        blender.model.decode_head = blender.head(head)
        images = rows(2)
        return [{**one, "label": predict(blender.model, one["image"], NATIVE)} for one in images]


def test_a_broken_member_is_left_out_and_a_target_is_refused(networks):
    images = _labelled_by(networks, Blend((1, 2)), 1)
    with Blender(networks) as blender:
        choice = greedy_soup(MergeScorer(blender, data_of(images)))
        with pytest.raises(UserError, match="is a target: members and weights are chosen on"):
            MergeScorer(blender, data_of(images, is_source=False))
        with pytest.raises(UserError, match="--head 4: there are members 1 to 3"):
            MergeScorer(blender, data_of(images), head=4)
    assert sorted(choice.chosen.members) == [2, 3]
    assert choice.chosen.head == 2
    assert choice.chosen.miou == pytest.approx(100)


def test_the_search_finds_the_best_corner_with_the_given_head(networks):
    images = _labelled_by(networks, Blend((2,)), 2)
    with Blender(networks) as blender:
        choice = search_weights(MergeScorer(blender, data_of(images), head=3), 7)
    assert choice.chosen.weights == (0, 0, 1)
    assert list(choice.chosen.scores) == [3]
    assert choice.chosen.miou == pytest.approx(100)
    assert len(choice.tried) <= 7
