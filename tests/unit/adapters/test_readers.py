"""One rank's readers of several arenas."""

from __future__ import annotations

import numpy as np
import pytest

import mmformat as mm
from mmformat.adapters.readers import Readers
from tests.support.requests import request_of


def _inputs(number: int) -> mm.MultimodalInputs:
    return request_of(np.full((2, 3), number, np.float32))


def test_handles_of_two_arenas_are_read() -> None:
    readers = Readers(0)
    with (
        mm.Arena.create(nbytes=2**16, ranks=1) as one,
        mm.Arena.create(nbytes=2**16, ranks=1) as other,
    ):
        handles = [bytes(one.put(_inputs(1))), bytes(other.put(_inputs(2)))]
        found = [readers.get(handle).items[0].feature[0, 0] for handle in handles]
        assert found == [1.0, 2.0]
        assert one.wait_released(timeout_s=2.0)
        readers.close()


def test_a_rank_that_comes_back_attaches_before_its_next_handle() -> None:
    with mm.Arena.create(nbytes=2**16, ranks=1) as arena:
        readers = Readers(0)
        readers.attach(arena.name)
        readers.close()
        unseen = bytes(arena.put(_inputs(3)))
        again = Readers(0)
        with pytest.raises(mm.StaleHandleError):
            again.get(unseen)
        handle = bytes(arena.put(_inputs(4)))
        assert again.get(handle).items[0].feature[0, 0] == 4.0
        again.close()


def test_a_released_handle_is_stale() -> None:
    readers = Readers(0)
    with mm.Arena.create(nbytes=2**16, ranks=1) as arena:
        handle = bytes(arena.put(_inputs(1)))
        readers.release(handle)
        assert arena.wait_released(timeout_s=2.0)
        with pytest.raises(mm.StaleHandleError):
            readers.get(handle)
        readers.close()


def test_a_dictionary_is_handed_over_as_it_is_where_the_device_expands_it() -> None:
    codes = np.array([[0, 1], [1, 1]], np.uint8)
    tensor = mm.DictionaryTensor(codes, np.array([[0.5, 2.0]], np.float32), axis=0)
    item = mm.MultimodalDataItem(modality="IMAGE", feature=tensor)
    with mm.Arena.create(nbytes=2**16, ranks=2) as arena:
        handle = bytes(arena.put(mm.MultimodalInputs(items=[item])))
        whole, unexpanded = Readers(0), Readers(1, expand=False)
        assert np.array_equal(whole.get(handle).items[0].feature, tensor.expand())
        found = unexpanded.get(handle).items[0].feature
        assert isinstance(found, mm.DictionaryTensor)
        assert np.array_equal(found.expand(), tensor.expand())
        del found
        whole.close()
        unexpanded.close()
