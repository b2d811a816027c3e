"""The search for the best batch: where it ends, and what it keeps."""

from revt_hf.speed.batches import LIMIT, SLOWER, best_batches


def _search(curves, **options):
    """Search with rates by batch; what is not in a curve does not fit into memory."""
    asked = []

    def measure(batch, names):
        asked.append((batch, tuple(names)))
        return {name: curves[name].get(batch, "out of memory") for name in names}

    return best_batches(list(curves), measure, **options), asked


def test_it_ends_where_rates_stop_rising():
    found, asked = _search({"a": {1: 10.0, 2: 19.0, 4: 30.0, 8: 29.0, 16: 99.0}})
    assert (found["a"].batch, found["a"].images_per_second) == (4, 30.0)
    assert found["a"].ended_by == SLOWER
    assert found["a"].tried == {1: 10.0, 2: 19.0, 4: 30.0, 8: 29.0}
    assert [batch for batch, _ in asked] == [1, 2, 4, 8]


def test_it_ends_where_memory_does():
    found, asked = _search({"a": {1: 10.0, 2: 20.0, 4: 40.0}})
    assert (found["a"].batch, found["a"].ended_by) == (4, "out of memory")
    assert asked[-1] == (8, ("a",))


def test_what_does_not_run_at_all_has_no_batch():
    found, asked = _search({"a": {}})
    assert (found["a"].batch, found["a"].ended_by, found["a"].tried) == (0, "out of memory", {})
    assert asked == [(1, ("a",))]


def test_each_ends_by_itself():
    found, asked = _search({"a": {1: 10.0, 2: 9.0}, "b": {1: 1.0, 2: 2.0, 4: 4.0}})
    assert {name: best.batch for name, best in found.items()} == {"a": 1, "b": 4}
    assert asked == [(1, ("a", "b")), (2, ("a", "b")), (4, ("b",)), (8, ("b",))]


def test_noise_is_no_rise():
    found, asked = _search({"a": {1: 100.0, 2: 101.0, 4: 500.0}})
    assert (found["a"].batch, found["a"].ended_by) == (2, SLOWER)
    assert len(asked) == 2


def test_there_is_a_largest_batch():
    curve = {2**power: float(2**power) for power in range(20)}
    found, asked = _search({"a": curve}, largest=100)
    assert (found["a"].batch, found["a"].ended_by) == (64, LIMIT)
    assert asked[-1][0] == 64
