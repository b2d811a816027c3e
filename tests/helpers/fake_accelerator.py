"""A device that this machine does not have: its tensors compute on the CPU, but mix with none.

Tensors that are moved to ``DEVICE`` are wrapped, and so is what is computed from them, with the
CPU's numbers. An operation on wrapped tensors and tensors of the CPU fails as it does on a
real device. So code that forgets to move a tensor fails, and code that does not gives the CPU's
results. What is no operation on tensors, such as asking a driver for free memory, is not tested.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from accelerate import PartialState
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

# Not undone before the process ends: use it in one of its own.
_setup_privateuseone_for_python_backend("fake")
DEVICE = torch.device("fake", 0)
_aten = torch.ops.aten
# Between devices, data are moved or copied by these only.
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
# What tells files which tensors share memory.
_READS = (torch.Tensor.untyped_storage, torch.Tensor.data_ptr)


class FakeTensor(torch.Tensor):
    """A tensor on the device; ``inner`` holds its numbers."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=False,
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in _READS:
            return func(args[0].inner)
        if func is functional.scaled_dot_product_attention:
            func = _attention
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})

    def __reduce_ex__(self, protocol):
        # A file holds numbers; checkpoints are read into the CPU's memory.
        return self.inner.__reduce_ex__(protocol)

    def __repr__(self):
        return f"FakeTensor({self.inner})"


class _Creations(TorchDispatchMode):
    """Tensors of the CPU that are moved to the device, and those that are made there.

    Networks have no business on the CPU: a convolution there fails.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # In inference mode, operations arrive that are made of others.
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if func is _aten.convolution.default and args[0].device.type == "cpu":
            raise RuntimeError("a network runs on the CPU, where there is an accelerator")
        return _compute(func, args, kwargs)


def _compute(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    wrapped = [isinstance(tensor, FakeTensor) for tensor in tensors]
    device = kwargs.get("device")
    # A number of the CPU may stand beside tensors of any device.
    strangers = [one.ndim > 0 and not ours for one, ours in zip(tensors, wrapped, strict=True)]
    if any(wrapped) and any(strangers) and func not in _MOVES:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {DEVICE} and cpu: {func}"
        )
    if device is None:
        on_device = any(wrapped)
    else:
        on_device = torch.device(device).type == DEVICE.type
        kwargs = {**kwargs, "device": torch.device("cpu") if on_device else device}
    if func is _aten.copy_.default:
        on_device = wrapped[0]
    inner_args, inner_kwargs = tree_map(
        lambda leaf: leaf.inner if isinstance(leaf, FakeTensor) else leaf, (args, kwargs)
    )
    result = func(*inner_args, **inner_kwargs)
    if not on_device:
        return result
    if func._schema.is_mutable and isinstance(result, torch.Tensor):
        return args[0]
    return tree_map(
        lambda leaf: FakeTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, result
    )


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    """What torch would ask the device's driver to do."""
    assert attn_mask is None and not is_causal
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = (query @ key.transpose(-2, -1) * scale).softmax(-1)
    return functional.dropout(weights, dropout_p) @ value


@contextmanager
def fake_accelerator():
    """Let the package find the device, as if the machine had it."""
    # Parameters of a module that is moved stay the same objects, as on real devices.
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (
            mock.patch.dict(PartialState()._shared_state, {"device": DEVICE}),
            # Autocast is not told about the device, which computes in float32 then.
            mock.patch("torch.amp.is_autocast_available", lambda kind: kind == "cpu"),
            _Creations(),
        ):
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
