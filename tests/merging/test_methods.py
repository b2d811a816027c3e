"""Merge methods against plain references, the original's results, and their properties."""

import inspect
import math
import statistics
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from revt_hf.checkpoints.names import disk_name, memory_names
from revt_hf.core.errors import UserError
from revt_hf.merging import registry
from revt_hf.merging.registry import (
    MergeSpec,
    Parameter,
    Rule,
    all_methods,
    check_spec,
    find_method,
    register,
)
from revt_hf.merging.selection import select
from tests.helpers.golden import golden_file

METHODS = all_methods()
PROPERTY = settings(max_examples=15, deadline=None, derandomize=True)
SHAPES = [(), (0,), (7,), (3, 4), (2, 3, 1, 5)]
DTYPES = [np.float32, np.float64]


def apply(name, tensors, weights=None, base=None, **parameters):
    """As an engine calls a method; nothing that goes in may change."""
    method = METHODS[name]
    for tensor in (*tensors, base):
        if tensor is not None:
            tensor.setflags(write=False)
    return method.combine(tensors, weights, base, parameters, salt="tensor.weight")


def random_members(shape, dtype, count=3, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(dtype).reshape(shape) for _ in range(count + 1)]


# Plain references: of one element's values and the base's. w has sum 1, f is as given.
def _signed_power(x, p):
    return math.copysign(abs(x) ** p, x)


def _power(xs, w, p):
    return _signed_power(sum(a * _signed_power(x, p) for a, x in zip(w, xs, strict=True)), 1 / p)


ELEMENTS = {
    "mean": lambda xs, w, f, b: statistics.fmean(xs),
    "weighted_mean": lambda xs, w, f, b: sum(a * x for a, x in zip(w, xs, strict=True)),
    "min": lambda xs, w, f, b: min(xs),
    "power": lambda xs, w, f, b: _power(xs, w, 0.9),
    "harmonic": lambda xs, w, f, b: 1 / sum(a / x for a, x in zip(w, xs, strict=True)),
    "trimmed_mean": lambda xs, w, f, b: statistics.fmean(
        sorted(xs)[len(xs) // 3 : len(xs) - len(xs) // 3]
    ),
    "median": lambda xs, w, f, b: statistics.median(xs),
    "task_arithmetic": lambda xs, w, f, b: (
        b + 0.4 * sum(a * (x - b) for a, x in zip(f, xs, strict=True))
    ),
    "wise_ft": lambda xs, w, f, b: 0.5 * b + 0.5 * sum(a * x for a, x in zip(w, xs, strict=True)),
}
ELEMENT_METHODS = [name for name, method in METHODS.items() if method.scope == "element"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize("name", ELEMENTS)
def test_elementwise_methods_are_their_formulas(name, count, dtype):
    *members, base = random_members((3, 4), dtype, count)
    given_weights = [None]
    if METHODS[name].takes_weights:
        given_weights.append(list(range(1, count + 1)))
    for weights in given_weights:
        factors = weights or [1] * count
        shares = [factor / sum(factors) for factor in factors]
        merged = apply(name, members, weights, base)
        for place in np.ndindex(3, 4):
            values = [float(member[place]) for member in members]
            expected = ELEMENTS[name](values, shares, factors, float(base[place]))
            # The harmonic mean of both signs amplifies the rounding of float32.
            tolerance = 1e-3 if name == "harmonic" and dtype == np.float32 else 1e-6
            assert merged[place] == pytest.approx(expected, rel=tolerance, abs=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_shape_and_dtype_stay(name, shape, dtype):
    count = METHODS[name].members[1] or 4
    *members, base = random_members(shape, dtype, count)
    merged = apply(name, members, base=base)
    assert isinstance(merged, np.ndarray)
    assert (merged.shape, merged.dtype) == (shape, dtype)
    assert np.isfinite(merged).all()
    merged += 1
    assert not any(np.shares_memory(merged, tensor) for tensor in (*members, base))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1, 2], "3 members need 3 finite weights"),
        ([1, 2, math.nan], "finite weights"),
        ([1, 2, math.inf], "finite weights"),
        ([0, 0, 0], "not sum to 0"),
        ([1e308, 1e308, 1e308], "or to infinity"),
    ],
)
def test_weights_that_cannot_be_used(weights, words):
    members = random_members((2,), np.float32)[:3]
    for name in ("weighted_mean", "power", "harmonic"):
        with np.errstate(over="ignore"), pytest.raises(UserError, match=words):
            apply(name, members, weights)


def test_negative_weights_lead_away_and_only_where_that_has_a_meaning():
    members = [np.float32([4]), np.float32([1])]
    assert apply("weighted_mean", members, [-1, 2])[0] == -2
    for weights in ([-1, 1], [-0.3, 0.1 + 0.2]):
        with pytest.raises(UserError, match="not sum to 0"):
            apply("weighted_mean", members, weights)
    # In float32 this would be infinity less infinity.
    assert apply("weighted_mean", [np.float32([3e38])] * 2, [-2, 3])[0] == np.float32(3e38)
    assert apply("task_arithmetic", members, [-1, 2], np.float32([0]), scale=1)[0] == -2
    for name in ("power", "harmonic", "wise_ft", "ties"):
        with pytest.raises(UserError, match="no negative weights"):
            apply(name, members, [-1, 2], np.float32([0]))


# What the original's tool gave: file -> method, parameters, weights, selection, members.
GOLDEN = {
    "merged_mean_backbone": ("mean", {}, None, "backbone.*", "abc"),
    "merged_mean_all": ("mean", {}, None, ".*", "abc"),
    "merged_mean_no_norm": ("mean", {}, None, r"backbone\.(?!.*norm).*", "abc"),
    "merged_head_c_first": ("mean", {}, None, "backbone.*", "cab"),
    "merged_single_two": ("mean", {}, None, "backbone.*", "ba"),
    "merged_factors_1_2_5_backbone": ("weighted_mean", {}, [1, 2, 5], "backbone.*", "abc"),
    "merged_min_backbone": ("min", {}, None, "backbone.*", "abc"),
    "merged_compression_0.9_backbone": ("power", {"exponent": 0.9}, None, "backbone.*", "abc"),
    "merged_harmonic_backbone": ("harmonic", {}, None, "backbone.*", "abc"),
}


def _golden(name):
    state = torch.load(golden_file(f"merge/{name}.pth"), weights_only=True)["state_dict"]
    return {key: tensor.numpy() for key, tensor in state.items()}


@pytest.mark.parametrize("file", GOLDEN)
def test_the_originals_results(file):
    assert {path.stem for path in golden_file("merge").glob("merged_*.pth")} == set(GOLDEN)
    name, parameters, weights, text, order = GOLDEN[file]
    expected = _golden(file)
    members = [_golden(letter) for letter in order]
    on_disk = {disk_name(memory_names(key)[0]): key for key in members[0]}
    selected = {on_disk[key] for key in select(text, list(on_disk))}
    merged_tensors = 0
    for key, first in members[0].items():
        if key in selected and np.issubdtype(first.dtype, np.floating):
            merged = apply(name, [member[key] for member in members], weights, **parameters)
            merged_tensors += 1
        else:
            merged = first
        if name == "power":
            # Its powers are torch's; above 1 one rounding step of float32 is more than 1e-7.
            np.testing.assert_allclose(merged, expected[key], rtol=1e-7, atol=1e-7)
        else:
            np.testing.assert_array_equal(merged, expected[key], key)
    assert merged_tensors >= 2


def test_harmonic_mean_of_zeros_and_of_opposites():
    members = [np.float32([0, 0, 2, 2, 1e-44]), np.float32([0, 1, -2, 6, -1e-44])]
    merged = apply("harmonic", members)
    # A zero counts as 1e-7, as in the original.
    np.testing.assert_allclose(merged, [1e-7, 2e-7, 0, 3, 0], rtol=1e-5)


def test_trimmed_mean_leaves_a_share_out_at_each_end():
    for count, cut in ((3, 1), (4, 1), (5, 1), (6, 2), (9, 3)):
        members = [np.float64([value]) for value in range(count)]
        members[0], members[-1] = np.float64([-1e9]), np.float64([1e9])
        expected = statistics.fmean(range(cut, count - cut))
        assert apply("trimmed_mean", members[::-1])[0] == expected
    ordered = np.sort(random_members((20,), np.float64, 99), axis=0)
    for trim, kept in ((0, slice(None)), (0.29, slice(29, 71)), (0.49, slice(49, 51))):
        merged = apply("trimmed_mean", list(ordered), trim=trim)
        np.testing.assert_allclose(merged, ordered[kept].mean(0), rtol=1e-9, atol=1e-12)


def test_slerp_walks_the_arc():
    first, second = np.float64([[3, 0]]), np.float64([[0, 3]])
    for t in (0, 0.25, 0.5, 1):
        merged = apply("slerp", [first, second], t=t)
        expected = [[3 * math.cos(t * math.pi / 2), 3 * math.sin(t * math.pi / 2)]]
        np.testing.assert_allclose(merged, expected, atol=1e-12)
    # Parallel, opposite and zero tensors are interpolated linearly.
    for x, y in (([1, 2], [2, 4]), ([1, 2], [-3, -6]), ([0, 0], [1, 5]), ([1, 5], [0, 0])):
        x, y = np.float64(x), np.float64(y)
        merged = apply("slerp", [x, y], t=0.25)
        np.testing.assert_allclose(merged, 0.75 * x + 0.25 * y, rtol=1e-12)


def test_ties_by_hand():
    base = np.float64([1, 1, 1, 1, 1])
    members = [
        base + np.float64([4, -3, 0.1, 2, 0]),
        base + np.float64([2, 5, 0.2, -2, 0]),
        base + np.float64([0.5, 1, -9, 0, 0]),
    ]
    # Of five differences density 0.4 keeps two, 0.6 three. Of the second's two values of
    # magnitude 2 density 0.4 keeps both: equals stay together.
    kept = apply("ties", members, base=base, density=0.4) - base
    np.testing.assert_allclose(kept, [(4 + 2) / 2, (5 + 1) / 2, -9, -2, 0])
    kept = apply("ties", members, base=base, density=0.6, scale=2) - base
    np.testing.assert_allclose(kept, [2 * (4 + 2 + 0.5) / 3, 2 * 3, -18, 0, 0])
    weighted = apply("ties", members, [5, 1, 1], base, density=0.6) - base
    np.testing.assert_allclose(weighted, [(20 + 2 + 0.5) / 7, -3, -9, 2, 0])
    # No sign is elected where the members cancel.
    opposite = [base + np.float64([2, 1, 0, 0, 0]), base - np.float64([2, -1, 0, 0, 0])]
    kept = apply("ties", opposite, base=base, density=1) - base
    np.testing.assert_allclose(kept, [0, 1, 0, 0, 0])


def test_ties_keeps_as_much_as_asked():
    tensor, base = random_members((100,), np.float64, 1)
    for density, kept in ((0, 0), (0.004, 1), (0.2, 20), (0.29, 29), (1, 100)):
        merged = apply("ties", [tensor, tensor], base=base, density=density)
        changed = merged != base
        assert changed.sum() == kept
        if 0 < kept < 100:
            difference = np.abs(tensor - base)
            assert difference[changed].min() >= difference[~changed].max()


def test_dare_drops_at_random_and_keeps_the_expectation():
    base = np.zeros(20_000)
    tensor = np.ones(20_000)
    merged = apply("dare", [tensor], base=base, drop=0.75, scale=1)
    assert set(merged) == {0.0, 4.0}
    assert (merged > 0).mean() == pytest.approx(0.25, abs=0.015)
    both = apply("dare", [tensor, tensor], base=base, drop=0.5, scale=1)
    # Members are thinned independently of one another.
    assert {value: (both == value).mean() for value in (0.0, 2.0, 4.0)} == pytest.approx(
        {0.0: 0.25, 2.0: 0.5, 4.0: 0.25}, abs=0.02
    )


def test_dare_depends_on_seed_and_name_alone():
    *members, base = random_members((6, 50), np.float32, 2)
    dare = METHODS["dare"].function
    first = dare(members, None, base, "a", seed=1)
    np.testing.assert_array_equal(first, dare(members, None, base, "a", seed=1))
    assert (first != dare(members, None, base, "a", seed=2)).any()
    assert (first != dare(members, None, base, "b", seed=1)).any()
    kept, whole = (
        apply(name, members, [1, 2], base, scale=0.7, **more)
        for name, more in (("dare", {"drop": 0}), ("task_arithmetic", {}))
    )
    np.testing.assert_allclose(kept, whole, rtol=1e-5, atol=1e-6)
    # Written down: the same on every machine and with every numpy.
    pinned = dare([np.ones(16)], None, np.zeros(16), "tensor", drop=0.5, scale=1, seed=3)
    assert "".join(str(int(value)) for value in pinned) == "2002220020002002"


def test_model_stock_by_hand():
    base = np.float64([1, 1, 1])
    x, y, z = (base + 2 * axis for axis in np.eye(3))
    # Orthogonal differences: nothing in common, the base.
    np.testing.assert_allclose(apply("model_stock", [x, y, z], base=base), base)
    np.testing.assert_allclose(apply("model_stock", [x, 2 * base - x], base=base), base)
    # 60 degrees: t = 2 c / (1 + c) = 2/3; another length leaves the angle.
    slanted = base + 5 * np.float64([0.5, 0.75**0.5, 0])
    expected = 2 / 3 * (x + slanted) / 2 + 1 / 3 * base
    np.testing.assert_allclose(apply("model_stock", [x, slanted], base=base), expected)
    # Cosines 1/2, 0, 0 of three members: c = 1/6, t = 3 c / (1 + 2 c) = 3/8.
    expected = 3 / 8 * (x + slanted + z) / 3 + 5 / 8 * base
    np.testing.assert_allclose(apply("model_stock", [x, slanted, z], base=base), expected)
    # A member that is the base has no direction.
    np.testing.assert_allclose(apply("model_stock", [x, base], base=base), base)
    expected = 3 / 8 * (x + slanted + base) / 3 + 5 / 8 * base
    np.testing.assert_allclose(apply("model_stock", [x, slanted, base], base=base), expected)
    # So small that squares vanish: the angle stays.
    tiny = [1e-200 * (member - base) for member in (x, slanted)]
    expected = 2 / 3 * (tiny[0] + tiny[1]) / 2
    np.testing.assert_allclose(apply("model_stock", tiny, base=0 * base), expected, rtol=1e-9)


NUMBERS = st.floats(-1e3, 1e3, width=32)


@st.composite
def members_and_base(draw, numbers=NUMBERS, dtype=np.float32, least=3, most=5):
    shape = draw(array_shapes(min_dims=0, max_dims=3, max_side=4))
    count = draw(st.integers(least, most))
    return [draw(arrays(dtype, shape, elements=numbers)) for _ in range(count + 1)]


SYMMETRIC = sorted(set(METHODS) - {"slerp", "dare"})


@pytest.mark.parametrize("name", SYMMETRIC)
@given(tensors=members_and_base(), order=st.randoms(use_true_random=False))
@PROPERTY
def test_the_order_of_members_does_not_matter(name, tensors, order):
    *members, base = tensors
    shuffled = order.sample(members, len(members))
    merged, again = (apply(name, group, base=base) for group in (members, shuffled))
    if name in ("min", "median", "trimmed_mean"):
        np.testing.assert_array_equal(merged, again)
    elif name == "harmonic":
        # What is stable is its sum of reciprocals: 0 where they cancel and the result is 0.
        sums = [np.divide(1, x, out=np.zeros_like(x), where=x != 0) for x in (merged, again)]
        sizes = np.abs(np.where(np.equal(members, 0), 1e-7, members)).min(axis=0)
        assert (np.abs(sums[0] - sums[1]) <= 1e-5 / np.maximum(sizes, 1e-37)).all()
    else:
        np.testing.assert_allclose(merged, again, rtol=1e-5, atol=2e-4)


IDENTITY = {
    "task_arithmetic": lambda count: {"scale": 1 / count},
    "dare": lambda count: {"scale": 1 / count, "drop": 0},
    "ties": lambda count: {"density": 1},
    "wise_ft": lambda count: {"alpha": 1},
}


@pytest.mark.parametrize("name", METHODS)
@given(tensors=members_and_base(least=1, most=1), count=st.integers(3, 5))
@PROPERTY
def test_identical_members_give_the_member_back(name, tensors, count):
    member, base = tensors
    count = METHODS[name].members[1] or count
    parameters = IDENTITY.get(name, lambda count: {})(count)
    merged = apply(name, [member] * count, base=base, **parameters)
    # The harmonic mean takes 1e-7 for 0.
    tolerance = 1.1e-7 if name == "harmonic" else 1e-30
    if METHODS[name].needs_base:
        tolerance = 1e-12 * float(np.abs([member, base]).max(initial=0)) + 1e-30
    np.testing.assert_allclose(merged, member, rtol=1e-6, atol=tolerance)


@pytest.mark.parametrize("name", ELEMENT_METHODS)
@given(tensors=members_and_base(), cut=st.integers(0, 64), weights=st.booleans())
@PROPERTY
def test_elementwise_methods_work_on_pieces(name, tensors, cut, weights):
    *members, base = tensors
    weights = range(1, len(members) + 1) if weights and METHODS[name].takes_weights else None
    whole = apply(name, members, weights, base)
    pieces = [
        apply(name, [member.ravel()[part] for member in members], weights, base.ravel()[part])
        for part in (slice(cut), slice(cut, None))
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole.ravel())


FINITE = {
    np.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    np.float64: st.floats(-1e60, 1e60),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
@settings(PROPERTY, max_examples=25)
def test_finite_members_never_give_nan(name, dtype, data):
    count = METHODS[name].members[1]
    *members, base = data.draw(
        members_and_base(FINITE[dtype], dtype, count or METHODS[name].members[0], count or 4)
    )
    parameters = {
        key: data.draw(st.floats(parameter.low, parameter.high))
        for key, parameter in METHODS[name].parameters.items()
        if not parameter.whole
    }
    weights = None
    if METHODS[name].takes_weights and data.draw(st.booleans()):
        low = -10 if name in ("weighted_mean", "task_arithmetic", "dare") else 0
        numbers = st.floats(low, 10).filter(lambda x: abs(x) > 1e-3)
        weights = [data.draw(numbers) for _ in members]
    try:
        merged = apply(name, members, weights, base, **parameters)
    except UserError as error:
        assert "sum to 0" in str(error)
    else:
        assert not np.isnan(merged).any()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described(name):
    method = METHODS[name]
    assert method.name == name
    assert (name in ELEMENTS) == (method.scope == "element")
    assert inspect.getdoc(method.function)
    assert any(year in method.reference for year in ("19", "20")) or "https" in method.reference
    least, most = method.members
    assert 1 <= least <= (most or least)
    options = inspect.signature(method.function).parameters.values()
    assert list(method.parameters) == [o.name for o in options if o.kind is o.KEYWORD_ONLY]
    for parameter in method.parameters.values():
        assert parameter.low <= parameter.default <= parameter.high
        assert parameter.meaning


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("ties", {"density": 1.01}, r"ties's density must be a number from 0 to 1, not 1\.01"),
        ("ties", {"density": math.nan}, "density must be a number from 0 to 1"),
        ("ties", {"density": "much"}, "density must be a number from 0 to 1, not 'much'"),
        ("ties", {"density": True}, "density must be a number from 0 to 1, not True"),
        ("ties", {"scale": 10**400}, "scale must be a number from 0 to 3"),
        ("dare", {"drop": 1}, r"drop must be a number from 0 to 0\.99, not 1"),
        ("dare", {"seed": 1.5}, r"seed must be a whole number from 0 to 4294967295, not 1\.5"),
        ("dare", {"seed": 2**32}, "seed must be a whole number"),
        ("ties", {"densty": 1}, "'densty': ties has density, scale, did you mean 'density'?"),
        ("mean", {"scale": 1}, "unknown parameter 'scale': mean has none"),
    ],
)
def test_parameters_are_checked(method, values, words):
    with pytest.raises(UserError, match=words):
        METHODS[method].checked(values)
    assert METHODS["ties"].checked({"density": "1"}) == {"density": 1.0, "scale": 1.0}
    assert type(METHODS["dare"].checked({"seed": "7"})["seed"]) is int


PLUGIN = '''
from typing import Annotated
from revt_hf.merging.registry import Parameter, register

@register("first", "A paper, 2026")
def first(tensors, weights, *, times: Annotated[float, Parameter(0, 9, "a factor")] = 2.0):
    """times x_1"""
    return times * tensors[0]
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that names its module as an entry point."""
    monkeypatch.setattr(registry, "_METHODS", dict(METHODS))
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[revt_hf.merge_methods]\nfirst = plugin_methods\n")
    (tmp_path / "plugin_methods.py").write_text(PLUGIN)
    yield tmp_path / "plugin_methods.py"
    sys.modules.pop("plugin_methods", None)


def test_a_package_adds_methods_by_an_entry_point(plugin):
    assert find_method("mean").name == "mean"
    assert "plugin_methods" not in sys.modules
    method = find_method("first")
    assert (method.takes_weights, method.needs_base) == (True, False)
    assert method.parameters["times"] == Parameter(0, 9, "a factor", 2.0)
    check_spec(MergeSpec(("a", "b"), (Rule(method="first", weights=(1, 2)),)))
    merged = method.combine([np.float32([1]), np.float32([5])], parameters={"times": 3})
    assert merged.tolist() == [3]
    assert "first" in all_methods()
    with pytest.raises(UserError, match=r"unknown merge method 'frist': use one of .*, first$"):
        find_method("frist")


def test_a_broken_package_is_named(plugin):
    plugin.write_text("import nowhere_to_be_found")
    with pytest.raises(UserError, match=r"methods of plugin_methods cannot be loaded: No module"):
        find_method("first")


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="the merge method 'mean' exists already"):
        register("mean", "somebody, 2026")(lambda tensors: tensors[0])
    assert METHODS["mean"].reference.startswith("Term")
