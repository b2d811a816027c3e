"""Merge methods against plain references, the original's results, and their properties."""

import inspect
import math
import statistics
import sys
from typing import Annotated

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import trim_mean

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


def _power(x, w, p=0.9):
    total = np.average(np.sign(x) * np.abs(x) ** p, 0, w)
    return np.sign(total) * np.abs(total) ** (1 / p)


# References in float64: of the members x (stacked) and the base, with weights w, 1 by default.
ELEMENTS = {
    "mean": lambda x, w, base: x.mean(0),
    "weighted_mean": lambda x, w, base: np.average(x, 0, w),
    "moments": lambda x, w, base: np.average(x, 0, w),
    "min": lambda x, w, base: x.min(0),
    "power": lambda x, w, base: _power(x, w),
    "harmonic": lambda x, w, base: 1 / np.average(1 / x, 0, w),
    "trimmed_mean": lambda x, w, base: trim_mean(x, 1 / 3, axis=0),
    "median": lambda x, w, base: np.median(x, 0),
    "task_arithmetic": lambda x, w, base: base + 0.4 * np.tensordot(w, x - base, 1),
    "wise_ft": lambda x, w, base: 0.5 * base + 0.5 * np.average(x, 0, w),
}
ELEMENT_METHODS = [name for name, method in METHODS.items() if method.scope == "element"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize("name", ELEMENTS)
def test_elementwise_methods_are_their_formulas(name, count, dtype):
    *members, base = random_members((3, 4), dtype, count)
    for weights in (None, range(1, count + 1)) if METHODS[name].takes_weights else (None,):
        merged = apply(name, members, weights, base)
        x, w = np.stack(members).astype(np.float64), weights or [1] * count
        # The harmonic mean of both signs amplifies the rounding of float32.
        tolerance = 1e-3 if name == "harmonic" and dtype == np.float32 else 1e-6
        expected = ELEMENTS[name](x, w, base.astype(np.float64))
        np.testing.assert_allclose(merged, expected, rtol=tolerance, atol=1e-6)


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


ANY, UNSIGNED = ("weighted_mean", "power", "harmonic"), ("power", "harmonic", "wise_ft", "ties")


@pytest.mark.parametrize(
    ("names", "weights", "words"),
    [
        (ANY, [1, 2], "3 members need 3 finite weights"),
        (ANY, [1, 2, math.nan], "finite weights"),
        (ANY, [1, 2, math.inf], "finite weights"),
        (ANY, [0, 0, 0], "not sum to 0"),
        (ANY, [1e308, 1e308, 1e308], "or to infinity"),
        (ANY[:1], [-1, 1, 0], "not sum to 0"),
        (ANY[:1], [-0.3, 0.1 + 0.2, 0], "not sum to 0"),
        ((*UNSIGNED, "moments"), [-1, 2, 1], "no negative weights"),
    ],
)
def test_weights_that_cannot_be_used(names, weights, words):
    *members, base = random_members((2,), np.float32)
    for name in names:
        with np.errstate(over="ignore"), pytest.raises(UserError, match=words):
            apply(name, members, weights, base)


def test_negative_weights_lead_away():
    members = [np.float32([4]), np.float32([1])]
    assert apply("weighted_mean", members, [-1, 2])[0] == -2
    # In float32 this would be infinity less infinity.
    assert apply("weighted_mean", [np.float32([3e38])] * 2, [-2, 3])[0] == np.float32(3e38)
    assert apply("task_arithmetic", members, [-1, 2], np.float32([0]), scale=1)[0] == -2


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
    # Its powers are torch's; above 1 one rounding step of float32 is more than 1e-7.
    tolerance = 1e-7 if name == "power" else 0
    for key, first in members[0].items():
        if key in selected and np.issubdtype(first.dtype, np.floating):
            first = apply(name, [member[key] for member in members], weights, **parameters)
        np.testing.assert_allclose(first, expected[key], tolerance, tolerance, err_msg=key)
    changed = [key for key in selected if not np.array_equal(expected[key], members[0][key])]
    assert sorted(key for key in selected if "num_batches" not in key) == sorted(changed)


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


HALF = 0.5**0.5
# Of five differences density 0.4 keeps two, 0.6 three. Of the second's two values of magnitude 2
# density 0.4 keeps both: equals stay together.
TIES = ([4, -3, 0.1, 2, 0], [2, 5, 0.2, -2, 0], [0.5, 1, -9, 0, 0])
# An angle of 60 degrees between the first two, 90 between the others: cosines 1/2, 0, 0.
X, SLANTED, Z = [2, 0, 0], [2.5, 5 * 0.75**0.5, 0], [0, 0, 2]
BOTH, ALL = np.add(X, SLANTED), np.sum([X, SLANTED, Z], axis=0)
# Name, method, members (differences from the base), weights, parameters, result.
BY_HAND = [
    # A zero counts as 1e-7, as in the original, and what cancels gives 0.
    ("a zero", "harmonic", ([0, 0], [0, 1]), None, {}, [1e-7, 2e-7]),
    ("opposites", "harmonic", ([2, 2, 1e-44], [-2, 6, -1e-44]), None, {}, [0, 3, 0]),
    ("first", "slerp", ([3, 0], [0, 3]), None, {"t": 0}, [3, 0]),
    ("middle", "slerp", ([3, 0], [0, 3]), None, {"t": 0.5}, [3 * HALF, 3 * HALF]),
    ("third", "slerp", ([3, 0], [0, 3]), None, {"t": 1 / 3}, [3 * 0.75**0.5, 1.5]),
    ("second", "slerp", ([3, 0], [0, 3]), None, {"t": 1}, [0, 3]),
    # Parallel, opposite and zero tensors are interpolated linearly.
    ("parallel", "slerp", ([1, 2], [2, 4]), None, {"t": 0.25}, [1.25, 2.5]),
    ("opposite", "slerp", ([1, 2], [-3, -6]), None, {"t": 0.25}, [0, 0]),
    ("zero first", "slerp", ([0, 0], [1, 5]), None, {"t": 0.25}, [0.25, 1.25]),
    ("zero second", "slerp", ([1, 5], [0, 0]), None, {"t": 0.25}, [0.75, 3.75]),
    ("equals", "ties", TIES, None, {"density": 0.4}, [3, 3, -9, -2, 0]),
    ("scaled", "ties", TIES, None, {"density": 0.6, "scale": 2}, [13 / 3, 6, -18, 0, 0]),
    ("weighted", "ties", TIES, [5, 1, 1], {"density": 0.6}, [22.5 / 7, -3, -9, 2, 0]),
    # No sign is elected where the members cancel.
    ("no sign", "ties", ([2, 1, 0], [-2, 1, 0]), None, {"density": 1}, [0, 1, 0]),
    # Orthogonal differences have nothing in common: the base.
    ("orthogonal", "model_stock", ([2, 0, 0], [0, 2, 0], Z), None, {}, [0, 0, 0]),
    ("opposite", "model_stock", (X, [-2, 0, 0]), None, {}, [0, 0, 0]),
    # t = 2 c / (1 + c) = 2/3; another length leaves the angle.
    ("60 degrees", "model_stock", (X, SLANTED), None, {}, 2 / 3 * BOTH / 2),
    # c = 1/6, t = 3 c / (1 + 2 c) = 3/8. A member that is the base has no direction.
    ("three", "model_stock", (X, SLANTED, Z), None, {}, 3 / 8 * ALL / 3),
    ("a base", "model_stock", (X, [0, 0, 0]), None, {}, [0, 0, 0]),
    ("three and a base", "model_stock", (X, SLANTED, [0, 0, 0]), None, {}, 3 / 8 * BOTH / 3),
]


@pytest.mark.parametrize(
    ("method", "members", "weights", "parameters", "expected"),
    [pytest.param(*case, id=f"{case[0]}-{name}") for name, *case in BY_HAND],
)
def test_results_by_hand(method, members, weights, parameters, expected):
    base = np.ones(len(expected)) if METHODS[method].needs_base else np.zeros(len(expected))
    moved = [np.float64(member) + base for member in members]
    merged = apply(method, moved, weights, base, **parameters) - base
    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-12)


def test_model_stock_of_numbers_whose_squares_vanish():
    members = [np.float64(member) * 1e-200 for member in (X, SLANTED)]
    expected = 2 / 3 * (members[0] + members[1]) / 2
    merged = apply("model_stock", members, base=np.zeros(3))
    np.testing.assert_allclose(merged, expected, rtol=1e-9)


def test_ties_keeps_as_much_as_asked():
    tensor, base = random_members((100,), np.float64, 1)
    for density, kept in ((0, 0), (0.004, 1), (0.2, 20), (0.29, 29), (1, 100)):
        changed = apply("ties", [tensor, tensor], base=base, density=density) != base
        assert changed.sum() == kept
        if 0 < kept < 100:
            difference = np.abs(tensor - base)
            assert difference[changed].min() >= difference[~changed].max()


def test_dare_drops_at_random_and_keeps_the_expectation():
    tensor, base = np.ones(20_000), np.zeros(20_000)
    # Members are thinned independently of one another.
    for count, drop, shares in (
        (1, 0.75, {0.0: 0.75, 4.0: 0.25}),
        (2, 0.5, {0.0: 0.25, 2.0: 0.5, 4.0: 0.25}),
    ):
        merged = apply("dare", [tensor] * count, base=base, drop=drop, scale=1)
        found = {value: (merged == value).mean() for value in set(merged)}
        assert found == pytest.approx(shares, abs=0.015)


def test_dare_depends_on_seed_and_name_alone():
    *members, base = random_members((6, 50), np.float32, 2)
    dare = METHODS["dare"].function
    first = dare(members, None, base, "a", seed=1)
    np.testing.assert_array_equal(first, dare(members, None, base, "a", seed=1))
    assert (first != dare(members, None, base, "a", seed=2)).any()
    assert (first != dare(members, None, base, "b", seed=1)).any()
    kept = apply("dare", members, [1, 2], base, scale=0.7, drop=0)
    whole = apply("task_arithmetic", members, [1, 2], base, scale=0.7)
    np.testing.assert_allclose(kept, whole, rtol=1e-5, atol=1e-6)
    # Written down: the same on every machine and with every numpy.
    pinned = dare([np.ones(16)], None, np.zeros(16), "tensor", drop=0.5, scale=1, seed=3)
    assert "".join(str(int(value)) for value in pinned) == "2002220020002002"


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


# Their results have other singular values than the members.
BY_MATRIX = ("tsv_m", "iso_c", "iso_cts", "score")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BY_MATRIX])
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
    with pytest.raises(UserError, match="the merge method 'mean' exists already"):
        register("mean", "somebody, 2026")(lambda tensors: tensors[0])
    assert METHODS["mean"].reference.startswith("Term")


def test_a_method_of_a_user_is_checked_when_it_is_registered_and_used():
    @register("flat", "somebody, 2026")
    def flat(tensors):
        return tensors[0].sum()

    with pytest.raises(UserError, match="'flat' exists already"):

        @register("flat", "somebody, 2026")
        def other(tensors):
            return tensors[0]

    with pytest.raises(UserError, match=r"'flat' made \(\) of tensors \(3,\)"):
        find_method("flat").combine([np.ones(3, np.float32)] * 2)
    with pytest.raises(UserError, match="give its parameter s a default"):

        @register("bare", "somebody, 2026")
        def bare(tensors, *, s: Annotated[float, Parameter(0, 1, "a share")]):
            return tensors[0] * s
