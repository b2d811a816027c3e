"""Headers of safetensors files: what is there, and what is wrong, by name."""

import json

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from revt_hf.checkpoints.headers import read_header
from revt_hf.core.errors import UserError
from tests.helpers.mutate import cases, mutated_bytes, mutated_json, reads_or_refuses

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.ones(3, dtype=torch.float16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 4),
}
VALID = save(TENSORS, metadata={"format": "pt"})


def header_of(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def file_of(header, data):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


@pytest.mark.parametrize(
    "name", ["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool", "float8_e4m3fn"]
)
def test_every_tensor_is_found_where_it_lies(tmp_path, name):
    path, dtype = tmp_path / "x.safetensors", getattr(torch, name)
    tensors = {"one": torch.ones(2, 3).to(dtype), "two": torch.zeros(4).to(dtype)}
    save_file(tensors, path)
    content = path.read_bytes()
    places = read_header(path)
    assert {place.name for place in places} == tensors.keys()
    for place in places:
        tensor = tensors[place.name]
        assert place.shape == tuple(tensor.shape)
        assert place.nbytes == tensor.nbytes
        stored = content[place.offset : place.offset + place.nbytes]
        assert stored == bytes(tensor.flatten().view(torch.uint8).tolist())
    assert [place.offset for place in places] == sorted(place.offset for place in places)


def _changed(name, new=None, **changes):
    header, data = header_of(VALID)
    header[new or name] = {**header.pop(name), **changes}
    return file_of(header, data)


# Bytes of the valid file's tensors: count 0..8, b.weight 8..32, a 32..38, none 38..38.
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "do not hold the header"),
        (VALID[:6], "do not hold the header"),
        (VALID[:40], "do not hold the header"),
        ((2**63).to_bytes(8, "little") + VALID[8:], "do not hold the header"),
        ((10).to_bytes(8, "little") + VALID[8:], "not JSON"),
        (file_of(b"[" * 100_000, b""), "not JSON"),
        (file_of(b'{"a": ' + b"9" * 5000 + b"}", b""), "not JSON"),
        (file_of(b"\xff\xfe", b""), "not JSON"),
        (file_of([], b""), "not a JSON object"),
        (file_of({"__metadata__": {"a": 1}}, b""), "__metadata__ is not"),
        (file_of({"a": 3}, b""), "'a' is not described by an object"),
        (VALID[:-3], "ends before its tensor 'a' does"),
        (VALID + b"x", "goes on after its last tensor"),
        (_changed("a", dtype="F7"), "'a' is of an unknown dtype, 'F7'"),
        (_changed("a", dtype=["F16"]), "'a' is of an unknown dtype"),
        (_changed("a", shape=[4]), "bytes of 'a' are not as many as its shape needs"),
        (_changed("a", shape=[True, 3]), "'a' has no valid shape"),
        (_changed("a", shape=[-3]), "'a' has no valid shape"),
        (_changed("a", shape=[1] * 80), "'a' has no valid shape"),
        (_changed("a", data_offsets=[38, 32]), "'a' has no valid data_offsets"),
        (_changed("a", data_offsets=[32]), "'a' has no valid data_offsets"),
        (_changed("a", data_offsets=[30, 36]), "'b.weight' and 'a' overlap"),
        (_changed("count", data_offsets=[4, 12]), "before 'count' belong to no tensor"),
        (_changed("a", "\ud800"), r"'\\ud800' is not a valid name"),
    ],
)
def test_what_is_broken_is_named(tmp_path, content, words):
    path = tmp_path / "broken.safetensors"
    with pytest.raises(UserError, match=r"cannot read .*broken"):
        read_header(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_header(path)
    assert "broken.safetensors is not a readable safetensors file" in str(caught.value)
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass


def test_mutated_files_are_refused_or_read_by_safetensors_too(tmp_path):
    path = tmp_path / "x.safetensors"
    header, data = header_of(VALID)
    for rng, where in cases("safetensors header"):
        mutated = file_of(mutated_json(header, rng), data)
        path.write_bytes(mutated if rng.random() < 0.5 else mutated_bytes(VALID, rng))
        places = reads_or_refuses(lambda: read_header(path), where)
        if places is not None:
            with safe_open(path, "pt") as file:
                assert set(file.keys()) == {place.name for place in places}, where
