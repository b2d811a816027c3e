"""Distances between members' weights: known answers, all kinds of files, little memory."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from revt_hf.analysis.similarity import similarity
from revt_hf.checkpoints.architecture import Architecture, tensor_shapes
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from tests.helpers.command_line import measured_command
from tests.helpers.golden import golden_file
from tests.helpers.networks import changed
from tests.helpers.segformers import BIG, COUNTER, saved_state

pytestmark = pytest.mark.numeric


def _weights(folder, *prefixes):
    """All numbers of a model whose names start like this, in float64."""
    return np.concatenate(
        [
            tensor.ravel().astype(np.float64)
            for name, tensor in sorted(load_file(folder / "model.safetensors").items())
            if tensor.dtype.kind == "f" and name.startswith(prefixes or "")
        ]
    )


def _parts(result, table):
    return {part["name"]: part for part in result[table]}


def test_scaled_equal_and_opposite_members(members, tmp_path):
    # Half as much again is exact in float32.
    scaled = changed(members[0], tmp_path / "scaled", lambda _, tensor: tensor * 1.5)
    opposite = changed(members[0], tmp_path / "opposite", lambda _, tensor: -tensor)
    result = similarity([members[0], members[0], opposite, scaled])
    assert result["pairs"][:3] == [[1, 2], [1, 3], [1, 4]]
    for part in (*result["blocks"], *result["layer_types"], *result["wholes"]):
        assert (part["l2"][0], part["msd"][0]) == (0, 0)
        cosines = part.get("cosine", [None] * 3)[:3]
        assert cosines == [None] * 3 or cosines == pytest.approx([1, -1, 1], abs=1e-12)
    weights = _weights(members[0])
    assert part["l2"][2] == pytest.approx(0.5 * np.linalg.norm(weights), rel=1e-7)
    assert part["msd"][2] == pytest.approx(0.25 * np.mean(weights**2), rel=1e-7)


@pytest.mark.parametrize(
    ("table", "name", "prefixes"),
    [
        ("blocks", "patch_embed1", ["segformer.encoder.patch_embeddings.0."]),
        ("blocks", "block2.0", ["segformer.encoder.block.1.0."]),
        ("blocks", "norm4", ["segformer.encoder.layer_norm.3."]),
        ("layer_types", "mlp", [f"segformer.encoder.block.{s}.0.mlp." for s in range(4)]),
        ("layer_types", "head linear_c.1", ["decode_head.linear_c.1."]),
        ("layer_types", "head batch_norm", ["decode_head.batch_norm."]),
        ("wholes", "encoder", ["segformer."]),
        ("wholes", "all", [""]),
    ],
)
def test_every_part_is_what_its_tensors_give(members, table, name, prefixes):
    result = similarity(members)
    part = _parts(result, table)[name]
    weights = [_weights(folder, *prefixes) for folder in members]
    assert part["parameters"] == weights[0].size
    assert list(_parts(result, "blocks")) == [
        step.format(stage)
        for stage in range(1, 5)
        for step in ("patch_embed{}", "block{}.0", "norm{}")
    ]
    for number, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        one, other = weights[i], weights[j]
        cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
        assert part["cosine"][number] == pytest.approx(cosine, abs=1e-9)
        assert part["l2"][number] == pytest.approx(np.linalg.norm(one - other), rel=1e-9)
        assert part["msd"][number] == pytest.approx(np.mean((one - other) ** 2), rel=1e-9)


def test_displacements_from_the_base(members, tmp_path):
    step = 2.0**-6

    def moved(sign):
        return lambda name, tensor: tensor + sign * step * name.startswith("segformer.")

    # Weights that float32 adds the step to without rounding.
    base = changed(members[0], tmp_path / "base", lambda _, tensor: np.round(tensor * 64) / 64)
    ahead = changed(base, tmp_path / "ahead", moved(1))
    back = changed(base, tmp_path / "back", moved(-2))
    wholes = _parts(similarity([ahead, back], base), "wholes")
    assert wholes["encoder"]["displacement_cosine"] == [pytest.approx(-1)]
    assert wholes["encoder"]["from_base"]["msd"] == [step**2, (2 * step) ** 2]
    # The head of the base is not compared.
    assert "from_base" not in wholes["all"]


def test_files_of_other_dtypes_and_orders(members, tmp_path):
    rounded = changed(members[1], tmp_path / "rounded", lambda _, t: t.astype(np.float16))
    halves = {
        name: tensor.astype(np.float16) if tensor.dtype.kind == "f" else tensor
        for name, tensor in reversed(load_file(rounded / "model.safetensors").items())
    }
    half = changed(rounded, tmp_path / "half", lambda _, tensor: tensor)
    save_file(halves, half / "model.safetensors", metadata={"format": "pt"})
    expected, found = similarity([members[0], rounded]), similarity([members[0], half])
    for one, other in zip(expected["blocks"], found["blocks"], strict=True):
        assert other["l2"] == pytest.approx(one["l2"], rel=1e-12)
    assert found["wholes"][0]["l2"][0] > 0


def test_what_cannot_be_compared_is_named(members, tmp_path):
    def broken(name, tensor):
        return tensor * (np.nan if name == "decode_head.classifier.bias" else 1)

    nan = changed(members[0], tmp_path / "nan", broken)
    with pytest.raises(UserError, match=r"nan: the tensor decode_head\.classifier\.bias holds NaN"):
        similarity([members[1], nan])
    with pytest.raises(UserError, match="at least two members"):
        similarity([members[0]])


def test_the_originals_numbers_on_the_same_files():
    files = [golden_file(f"merge/{name}.pth") for name in "abc"]
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    result = similarity(files)["original"]
    assert [row["up_to"] for row in result] == ["patch_embed1", "block1.0", "norm1"]
    # Its lists grow from step to step; all is float32 and the mean over all pairs.
    weights = [torch.tensor([]) for _ in states]
    for row in result:
        prefix = f"backbone.{row['up_to']}."
        for number, state in enumerate(states):
            tensors = [state[name].flatten() for name in state if name.startswith(prefix)]
            weights[number] = torch.hstack([weights[number], *tensors])
        pairs = [(weights[0], weights[1]), (weights[0], weights[2]), (weights[1], weights[2])]
        cosines = [torch.nn.CosineSimilarity(dim=0, eps=1e-6)(a, b) for a, b in pairs]
        norms = [torch.norm(a - b) for a, b in pairs]
        assert row["cosine"] == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-6)
        assert row["l2"] == pytest.approx(float(torch.stack(norms).mean()), rel=1e-6)
        msd = torch.stack([norm / len(weights[0]) for norm in norms]).mean()
        assert row["msd"] == pytest.approx(float(msd), rel=1e-6)


def test_the_command_takes_little_memory_and_neither_torch_nor_matplotlib(tmp_path):
    sizes = {**BIG, "depths": (1, 1, 14, 1)}  # 100 MiB
    shapes = tensor_shapes(Architecture(**sizes), 19) | {COUNTER: ()}
    folders = []
    for number in range(3):
        state = {name: torch.full(shape, number + 1.0) for name, shape in shapes.items()}
        state[COUNTER] = torch.tensor(1)
        folders.append(saved_state(tmp_path / str(number), state, sizes))
    command = ["diagnose", "similarity", *folders, "--output", tmp_path / "out", "--no-plot"]
    mebibytes, heavy = measured_command(command, ("torch", "matplotlib", "transformers"))
    assert mebibytes < 60
    assert heavy == []
    written = read_json_object(tmp_path / "out" / "similarity.json")
    assert written["wholes"][0]["msd"] == [1, 4, 1]
    assert not (tmp_path / "out" / "similarity.png").exists()
