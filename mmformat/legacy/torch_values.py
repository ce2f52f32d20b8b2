"""torch tensors and storages as a pickle describes them, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from mmformat.errors import DecodeError, UnsafePickleError
from mmformat.legacy import torch_stream
from mmformat.legacy.nodes import Arguments, Call, Marked, Name, Storage, Tensor
from mmformat.legacy.numpy_values import checked_shape
from mmformat.model.tensors import ITEMSIZE

__all__ = ["KINDS"]


def _load_from_bytes(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (bytes() | memoryview() as data,):
            view = memoryview(data)
            machine.limits.check("nesting", machine.nesting + 1, call.path)
            value = torch_stream.load(machine, view, call.path)
            if type(value) is not Storage:
                raise DecodeError("expected a torch storage in a nested stream", path=call.path)
            return value
    raise call.wrong()


def _tensor(
    machine: Any, call: Arguments, view: tuple[Any, Any, Any, Any], dtype: str | None = None
) -> Tensor:
    storage, offset, shape, stride = view
    if type(storage) is not Storage:
        raise call.wrong()
    name = dtype or storage.dtype
    if name is None:
        raise DecodeError("expected a storage with a dtype", path=call.path)
    if dtype is not None and storage.dtype not in (None, dtype):
        raise DecodeError(f"expected a storage of {dtype}, got {storage.dtype}", path=call.path)
    shape = shape.value if type(shape) is Marked and shape.kind == "torch.Size" else shape
    extents = checked_shape(shape, machine.limits, call.path)
    strides = checked_shape(stride, machine.limits, call.path)
    if len(strides) != len(extents) or type(offset) is not int or not 0 <= offset < 2**62:
        raise DecodeError(
            "expected an offset and one stride an axis", path=call.path, code="tensor-bounds"
        )
    size = ITEMSIZE[name]
    count = math.prod(extents)
    nbytes = count * size
    if count:
        last = offset + sum((n - 1) * step for n, step in zip(extents, strides, strict=True))
        if (last + 1) * size > storage.nbytes:
            raise DecodeError(
                f"expected a view within {storage.nbytes:,} bytes of storage, got one that ends "
                f"at {(last + 1) * size:,}",
                path=call.path,
                code="tensor-bounds",
            )
    return Tensor(
        "torch",
        name,
        extents,
        nbytes,
        storage,
        offset_nbytes=offset * size,
        stride_nbytes=None if _contiguous(extents, strides) else tuple(s * size for s in strides),
        location=storage.location,
    )


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for extent, step in zip(reversed(shape), reversed(strides), strict=True):
        if extent == 0:
            return True
        if extent != 1 and step != expected:
            return False
        expected *= extent
    return True


def _finish(tensor: Tensor, requires_grad: Any, metadata: Any, call: Arguments) -> Tensor:
    if type(requires_grad) is not bool:
        raise call.wrong()
    tensor.requires_grad = requires_grad
    if metadata is not None:
        if type(metadata) is not dict or not metadata.keys() <= {"conj", "neg"}:
            raise call.wrong()
        tensor.conjugate = bool(metadata.get("conj"))
        tensor.negative = bool(metadata.get("neg"))
    return tensor


def _rebuild_v1(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (storage, offset, shape, stride):
            return _tensor(machine, call, (storage, offset, shape, stride))
    raise call.wrong()


def _rebuild_v2(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (storage, offset, shape, stride, grad, _, *rest) if len(rest) <= 1:
            tensor = _tensor(machine, call, (storage, offset, shape, stride))
            return _finish(tensor, grad, rest[0] if rest else None, call)
    raise call.wrong()


def _rebuild_v3(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (storage, offset, shape, stride, grad, _, Name(kind="torch-dtype") as dtype, *rest):
            if len(rest) > 1:
                raise call.wrong()
            tensor = _tensor(machine, call, (storage, offset, shape, stride), dtype.name)
            return _finish(tensor, grad, rest[0] if rest else None, call)
    raise call.wrong()


def _parameter(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Tensor() as data, bool() as grad, _):
            data.requires_grad = grad
            return data
        case (Tensor() as data, bool() as grad, _, state):
            data.requires_grad = grad
            data.build(state, call.path)
            return data
    raise call.wrong()


def _from_type(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Name(call=rebuild) as function, Name(kind="torch-class"), tuple() as args, state):
            if function.kind in ("torch-tensor-v2", "torch-tensor-v3") and rebuild is not None:
                tensor: Tensor = rebuild(machine, Arguments(function, args, call.path))
                if call.values[1].name == "TransportProxyTensor":
                    return _proxy(tensor, state, call)
                # torch sets each entry of the state as an attribute; ours are only kept.
                tensor.build(state, call.path)
                return tensor
    raise UnsafePickleError(
        "expected torch._tensor._rebuild_from_type_v2 of a tensor, got another use",
        path=call.path,
        code="unsafe-pickle-call",
    )


def _proxy(tensor: Tensor, state: Any, call: Arguments) -> Tensor:
    # SGLang's __setstate__ takes the data from the state, by CUDA IPC when that was the transport.
    if type(state) is not dict:
        raise call.wrong()
    if state.get("ipc_extra") is not None:
        raise DecodeError(
            "expected the bytes of a tensor, got a CUDA IPC handle",
            path=call.path,
            hint="the handle ended with its process: write the pickle with the default transport",
            code="dangling-ipc",
        )
    data = state.get("tensor_data")
    found = data if type(data) is Tensor else tensor
    found.attributes = {"_metadata": state.get("metadata")}
    return found


def _size(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (tuple() | list() as shape,):
            return Marked("torch.Size", checked_shape(shape, machine.limits, call.path))
    raise call.wrong()


def _device(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (str() as kind,):
            return Marked("torch.device", kind)
        case (str() as kind, int() as index):
            return Marked("torch.device", f"{kind}:{index}")
    raise call.wrong()


KINDS: Final[Mapping[str, tuple[Call | None, Call | None]]] = {
    "torch-tensor-v1": (_rebuild_v1, None),
    "torch-tensor-v2": (_rebuild_v2, None),
    "torch-tensor-v3": (_rebuild_v3, None),
    "torch-parameter": (_parameter, None),
    "torch-from-type": (_from_type, None),
    "torch-load-bytes": (_load_from_bytes, None),
    "torch-storage": (None, None),
    "torch-dtype": (None, None),
    "torch-class": (None, None),
    "torch-size": (_size, None),
    "torch-device": (_device, None),
}
