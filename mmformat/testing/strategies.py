"""Hypothesis strategies for inputs: every dtype, stride and kind of value that may travel."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from mmformat.model import (
    DictionaryTensor,
    InputFormat,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
)
from mmformat.model.tensors import ITEMSIZE, numpy_dtype, torch_dtype

__all__ = ["arrays", "dictionary_tensors", "inputs", "tensors", "values"]

_MAX_ELEMENTS = 64

_integers64 = st.integers(-(2**63), 2**63 - 1)
_names = st.text(max_size=8)


def _shapes() -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def arrays(draw: st.DrawFn, *, dtype: str | None = None) -> Any:
    """Draw a numpy array of a wire dtype: any bits, often a view with odd strides."""
    name = draw(st.sampled_from(sorted(ITEMSIZE))) if dtype is None else dtype
    shape = draw(_shapes())
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.frombuffer(
        draw(st.binary(min_size=count * ITEMSIZE[name], max_size=count * ITEMSIZE[name])), np.uint8
    ).copy()
    if name == "bool":
        raw &= np.uint8(1)
    made = raw.view(numpy_dtype(name)).reshape(shape)
    for axis in range(made.ndim):
        step = draw(st.sampled_from([1, 1, 2, -1]))
        made = made[(slice(None),) * axis + (slice(None, None, step),)]
    if made.ndim > 1 and draw(st.booleans()):
        made = made.T
    return made


@st.composite
def tensors(draw: st.DrawFn, *, dtype: str | None = None) -> Any:
    """Draw a torch tensor: any bits, sliced, transposed, expanded, sharing storage, with grad."""
    import torch

    made = draw(arrays(dtype=dtype))
    name = made.dtype.name
    tensor = torch.empty(made.shape, dtype=torch_dtype(name))
    if made.size:  # torch gives an empty array the stride 0, which it then cannot view
        raw = np.ascontiguousarray(made).reshape(-1).view(np.uint8).copy()
        tensor = torch.from_numpy(raw).view(torch_dtype(name)).view(made.shape)
    change = draw(st.sampled_from(["none", "slice", "transpose", "expand", "grad", "conj", "neg"]))
    if change == "slice" and tensor.dim():
        tensor = tensor[::2]
    elif change == "transpose" and tensor.dim() > 1:
        tensor = tensor.transpose(0, -1)
    elif change == "expand":
        tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
    elif change == "grad" and name in ("float16", "float32", "float64", "bfloat16"):
        tensor = tensor.requires_grad_()
    elif change == "conj" and tensor.is_complex():
        tensor = tensor.conj()
    elif change == "neg" and tensor.is_complex():
        tensor = tensor.conj().imag
    return tensor


@st.composite
def dictionary_tensors(draw: st.DrawFn) -> DictionaryTensor:
    """Draw a dictionary tensor whose codes are all in the table."""
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(shape) - 1))
    entries = draw(st.sampled_from([1, 2, 7, 256]))
    channels = draw(st.sampled_from([1, shape[axis]]))
    name = draw(st.sampled_from(sorted(ITEMSIZE)))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, entries, shape, np.uint8, endpoint=False)
    table = generator.integers(0, 2 if name == "bool" else 256, channels * entries * ITEMSIZE[name])
    return DictionaryTensor(
        codes,
        table.astype(np.uint8).view(numpy_dtype(name)).reshape(channels, entries),
        axis=axis,
        repeat_axis=draw(st.integers(0, len(shape))),
        repeat=draw(st.integers(1, 3)),
    )


def _scalars() -> st.SearchStrategy[Any]:
    floats = st.floats(allow_nan=True, allow_infinity=True)
    plain = arrays().filter(lambda made: made.size > 0)
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**256), 2**256),
        floats,
        st.text(max_size=20),
        st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=5),
        st.binary(max_size=20),
        st.binary(max_size=20).map(bytearray),
        st.builds(complex, floats, floats),
        plain.map(lambda made: made.reshape(-1)[0]),
    )


def _keys() -> st.SearchStrategy[Any]:
    atoms = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=5),
        st.binary(max_size=5),
    )
    return st.one_of(st.text(max_size=5), atoms, st.tuples(atoms, atoms))


def values() -> st.SearchStrategy[Any]:
    """Draw any value that may travel: scalars, tensors, and nests of them."""
    leaves = st.one_of(_scalars(), arrays(), tensors(), dictionary_tensors())
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(_keys(), inner, max_size=4),
            st.dictionaries(st.sampled_from(["$tensor", "$int", "$", "a"]), inner, max_size=2),
        ),
        max_leaves=8,
    )


def _features() -> st.SearchStrategy[Any]:
    one = st.one_of(arrays(), tensors(), dictionary_tensors())
    return st.one_of(st.none(), one, st.lists(one, max_size=3))


def _items() -> st.SearchStrategy[MultimodalDataItem]:
    return st.builds(
        MultimodalDataItem,
        modality=st.sampled_from(Modality),
        format=st.sampled_from(InputFormat),
        feature=_features(),
        precomputed_embeddings=_features(),
        offsets=st.none() | st.lists(st.tuples(_integers64, _integers64), max_size=3),
        model_specific_data=st.dictionaries(_names, values(), max_size=3),
        hash=st.none() | st.integers(-(2**300), 2**300),
        pad_value=st.none() | _integers64,
        identity=st.none() | st.text(max_size=70),
    )


def inputs() -> st.SearchStrategy[MultimodalInputs]:
    """Draw inputs of a request: up to three items, with data of the request."""
    return st.builds(
        MultimodalInputs,
        items=st.lists(_items(), max_size=3),
        request_data=st.dictionaries(_names, values(), max_size=3),
    )
