"""Merge methods by singular values: the authors' results, mistakes that they tell, odd matrices."""

import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from revt_hf.merging import registry, singular_values
from revt_hf.merging.registry import find_method
from tests.helpers.command_line import measured_command, revt
from tests.helpers.golden import ROOT
from tests.helpers.segformers import random_state, saved_state, tensors_of

METHODS = ("tsv_m", "iso_c", "iso_cts", "score")
# tsv_m/NAME .. score/NAME are what the authors' code makes of the differences delta0/NAME ..
# delta2/NAME; score_u/NAME and score_v/NAME are the basis in which theirs is found again.
GOLDEN = np.load(ROOT / "tests" / "golden" / "merge_frontier.npz")
MATRICES = ("wide", "tall", "square")


def golden(name):
    return [GOLDEN[f"delta{number}/{name}"] for number in range(3)]


def merged(method, differences, base=None, **parameters):
    """What a method adds to the base."""
    base = np.zeros(differences[0].shape) if base is None else base
    members = [base + difference for difference in differences]
    return find_method(method).combine(members, None, base, parameters) - base


def check_golden(method, module=singular_values):
    for name in ("bias", *MATRICES):
        base, expected = GOLDEN[f"base/{name}"], GOLDEN[f"{method}/{name}"]
        if method == "score" and name in MATRICES:
            basis = GOLDEN[f"score_u/{name}"], GOLDEN[f"score_v/{name}"]
            found = 2 * module._trimmed(golden(name), *basis, 1.96)
        else:
            found = merged(method, golden(name), base, scale=2.0)
        np.testing.assert_allclose(found, 2 * expected, rtol=0, atol=1e-10, err_msg=name)
    if method == "score":
        # The sample standard deviation of 0, 1, -1, 0 is 0.816, half of it times 2.6 is above 1.
        kept, trimmed = np.array([[3.0, 1], [-1, 5]]), np.diag([3.0, 5])
        for cutoff, expected in ((2.6, 2 * kept), (2.4, 2 * trimmed)):
            found = module._trimmed([kept] * 2, np.eye(2), np.eye(2), cutoff)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.numeric
@pytest.mark.parametrize("method", METHODS)
def test_the_authors_results(method):
    check_golden(method)


@pytest.mark.numeric
@pytest.mark.parametrize("name", MATRICES)
def test_the_basis_of_score_is_the_authors_up_to_signs(name):
    """What depends on their LAPACK is left: signs, and columns that no member fills."""
    U, S, V = singular_values._side_by_side(golden(name), 0.0)
    theirs = [GOLDEN[f"score_u/{name}"][:, : len(S)], GOLDEN[f"score_v/{name}"][: len(S)]]
    signs = np.sign((U * theirs[0]).sum(0))
    np.testing.assert_allclose(signs * U, theirs[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(signs[:, None] * V, theirs[1], rtol=0, atol=1e-10)
    positive = np.sign(np.take_along_axis(U, np.abs(U).argmax(0, keepdims=True), 0)[0])
    own = singular_values._trimmed(golden(name), positive * U, positive[:, None] * V, 1.96)
    np.testing.assert_allclose(merged("score", golden(name)), own, rtol=0, atol=1e-10)


# Method, what its code says, and what it must not say.
MISTAKES = [
    ("tsv_m", "min(differences[0].shape) // len(", "(min(differences[0].shape) - 1) // len("),
    ("tsv_m", "_nearest(U), S, _nearest(V.T).T", "U, S, V"),
    ("tsv_m", "(U * S) @ V", "U @ V"),
    ("tsv_m", "scale * peak", "peak"),
    ("iso_c", "S.sum() / rank) * (U @ V)", "S.max()) * (U @ V)"),
    ("iso_c", "_leading(np.sum(differences, 0), rank", "_leading(np.mean(differences, 0), rank"),
    ("iso_c", "scale * (sum(differences) / count)", "scale * sum(differences)"),
    ("iso_cts", "= 0.8", "= 0.7"),
    ("iso_cts", "one - left @ (left.T @ one)", "one"),
    ("iso_cts", "_nearest(U) @ _nearest(V.T).T", "U @ V"),
    ("iso_cts", "S.sum() / rank) * (_n", "S.max()) * (_n"),
    ("score", " / len(differences)\n", "\n"),
    ("score", "ddof=1", "ddof=0"),
    ("score", "others - others.mean()", "others"),
    ("score", "total += diagonal + others", "total += others"),
    ("score", "total += diagonal + others", "total += (diagonal + others) / 3"),
    ("score", "others = inner - diagonal", "others = inner"),
]


@pytest.mark.parametrize(("method", "right", "wrong"), MISTAKES)
def test_a_mistake_in_a_formula_is_told(monkeypatch, method, right, wrong):
    monkeypatch.setattr(registry, "_METHODS", dict(registry.all_methods()))
    source = inspect.getsource(singular_values)
    assert right in source
    mistaken = types.ModuleType(singular_values.__name__)
    exec(compile(source.replace(right, wrong), "mistaken", "exec"), vars(mistaken))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_golden(method, mistaken)


def random_differences(shape, seed=0, count=3):
    return list(np.random.default_rng(seed).normal(size=(count, *shape)))


@pytest.mark.parametrize("method", METHODS)
def test_a_convolution_is_the_matrix_of_its_outputs(method):
    kernels = random_differences((6, 4, 3, 3))
    matrices = [kernel.reshape(6, 36) for kernel in kernels]
    found, expected = merged(method, kernels), merged(method, matrices)
    np.testing.assert_array_equal(found.reshape(6, 36), expected)
    assert not np.allclose(expected, np.mean(matrices, axis=0), atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_room_for_every_member_is_averaged(method):
    for shape in ((), (0,), (0, 4), (5,), (2, 9), (9, 2), (1, 7, 8), (4, 1, 1, 1)):
        differences = random_differences(shape)
        expected = np.mean(differences, axis=0)
        np.testing.assert_allclose(merged(method, differences), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_arbitrary_signs_of_singular_vectors_change_nothing(monkeypatch, method):
    differences, eigh = random_differences((9, 12)), np.linalg.eigh
    expected = merged(method, differences)
    generator = np.random.default_rng(1)

    def other_signs(matrix):
        squares, vectors = eigh(matrix)
        return squares, vectors * generator.choice([-1.0, 1.0], len(squares))

    monkeypatch.setattr(np.linalg, "eigh", other_signs)
    for _ in range(4):
        np.testing.assert_allclose(merged(method, differences), expected, rtol=0, atol=1e-12)


def with_values(values, seed=0, columns=24):
    """A matrix of given singular values."""
    generator = np.random.default_rng(seed)
    U, _ = np.linalg.qr(generator.normal(size=(len(values),) * 2))
    V, _ = np.linalg.qr(generator.normal(size=(columns, len(values))))
    return (U * values) @ V.T


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("range_", [1e-3, 1e-6, 1e-9])
def test_gram_matrices_give_what_lapack_gives(monkeypatch, method, range_):
    values = np.geomspace(1, range_, 24)
    differences = [with_values(values, seed) for seed in range(3)]
    found = merged(method, differences)
    monkeypatch.setattr(singular_values, "_SQUARED_RANGE", np.inf)
    np.testing.assert_allclose(found, merged(method, differences), rtol=0, atol=1e-9)


def test_equal_members_and_members_that_are_the_base():
    one = with_values(np.arange(12, 0, -1.0))
    same, nothing = [one] * 3, np.zeros_like(one)
    U, S, V = np.linalg.svd(one, full_matrices=False)
    leading = (U[:, :4] * S[:4]) @ V[:4]
    # What members share counts once: three times a third, the rest of M_i are outliers.
    for method in ("tsv_m", "score"):
        np.testing.assert_allclose(merged(method, same), leading, rtol=0, atol=1e-9)
    np.testing.assert_allclose(merged("iso_c", same), 3 * S.mean() * U @ V, rtol=0, atol=1e-9)
    for method in METHODS:
        assert not merged(method, [nothing] * 3).any()
    # A frozen member has no directions, so it moves nothing.
    alone = merged("tsv_m", [one, nothing, nothing])
    np.testing.assert_allclose(alone, leading, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_of_low_rank_updates_does_not_become_a_direction(method, kind):
    """The other 58 of 64 directions hold nothing but the rounding of the members' files."""
    generator = np.random.default_rng(0)
    base = generator.normal(size=(64, 64)).astype(np.float32)
    lefts = [generator.normal(size=(64, 2)) for _ in range(3)]
    updates = [0.1 * left @ generator.normal(size=(2, 64)) for left in lefts]
    # As they are read: 16 bits are widened to float32.
    members = [torch.from_numpy(base + update).to(kind).float().numpy() for update in updates]
    found = find_method(method).combine(members, None, base) - base.astype(np.float64)
    Q, _ = np.linalg.qr(np.hstack(lefts))
    assert Q.shape == (64, 6)
    outside = np.abs(found - Q @ (Q.T @ found)).max()
    assert outside < 10 * torch.finfo(kind).eps < np.abs(found).max()


@pytest.mark.parametrize("method", METHODS)
def test_rounding_of_lapack_does_not_become_a_direction(method):
    """In float64 with a base of zeros there is nothing else to tell it by."""
    left, right = random_differences((40, 1), seed=1)[0], random_differences((1, 30), seed=2)[0]
    expected = left @ right
    if method.startswith("iso"):
        expected *= 3 / 30
    found = merged(method, [left @ right] * 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_sizes_do_not_matter_and_nan_stays_nan(method):
    differences = random_differences((6, 8))
    expected = merged(method, differences)
    for size in (1e-200, 1e100):
        found = merged(method, [size * one for one in differences])
        np.testing.assert_allclose(found / size, expected, rtol=0, atol=1e-12)
    differences[1][2, 3] = np.nan
    assert np.isnan(merged(method, differences)).all()


def test_parameters_change_something():
    differences = random_differences((9, 12))
    for method, more in (("score", {"cutoff": 5.88}), ("iso_cts", {"common": 1.0})):
        assert not np.allclose(merged(method, differences), merged(method, differences, **more))
    # With everything in common there is nothing of a member's own.
    common = merged("iso_cts", differences, common=1.0)
    np.testing.assert_allclose(common, merged("iso_c", differences), rtol=0, atol=1e-12)
    own = merged("iso_cts", differences, common=0.0)
    assert np.linalg.matrix_rank(own) == 9


def test_scale_gives_the_sum_of_members_or_their_mean():
    differences = random_differences((9, 12))
    for method in METHODS:
        whole = merged(method, differences)
        third = merged(method, differences, scale=1 / 3)
        np.testing.assert_allclose(3 * third, whole, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(merged(method, differences, scale=1.0), whole)


def test_the_command_needs_numpy_alone_and_repeats_itself(capsys, tmp_path):
    folders = [saved_state(tmp_path / f"m{seed}", random_state(seed)) for seed in range(4)]
    out, again = tmp_path / "out", tmp_path / "again"
    arguments = ("--method", "score", "--param", "scale=0.5", "--base", folders[3], "--quiet")
    command = ("merge", *folders[:3], *arguments, "--output", out)
    _, heavy = measured_command(command, ("torch", "scipy", "typer", "pydantic"))
    assert heavy == []
    name = "segformer.encoder.block.3.0.mlp.dense1.weight"
    *members, base = (tensors_of(folder)[name].numpy() for folder in folders)
    expected = find_method("score").combine(members, None, base, {"scale": 0.5})
    np.testing.assert_allclose(tensors_of(out)[name].numpy(), expected, rtol=0, atol=1e-5)
    repeated = ("merge", "--from", out / "merge.json", "--output", again, "--quiet")
    code, _, error = revt(capsys, *repeated)
    assert code == 0, error
    _, told, _ = revt(capsys, "inspect", out)
    assert [line for line in told.splitlines() if "(the base)" in line] == [
        f"same     {folders[3]} (the base)"
    ]


_THREADS = """
import os, sys
from revt_hf.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.numeric
def test_one_thread_computes_eigenvalues_and_two_give_the_same(tmp_path):
    """Threads that wait for a busy core would make a merge many times slower."""
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc")
    folders = [saved_state(tmp_path / f"m{seed}", random_state(seed)) for seed in range(4)]
    results = {}
    for threads in (None, 2):
        out = tmp_path / f"out{threads}"
        arguments = ("--method", "score", "--base", folders[3], "--output", out, "--quiet")
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {key: value for key, value in os.environ.items() if key not in names}
        environment |= {"OPENBLAS_NUM_THREADS": str(threads)} if threads else {}
        command = [sys.executable, "-c", _THREADS, "merge", *folders[:3], *arguments]
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        results[threads] = tensors_of(out)
        if threads is None:
            assert done.stdout.split() == ["1"]
    for name, found in results[2].items():
        torch.testing.assert_close(found, results[None][name], rtol=1e-6, atol=1e-6)
