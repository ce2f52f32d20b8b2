"""Errors keep all that they say on the way to another process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from mmformat import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def made(kind: type[Any]) -> Any:
    error = kind("no such thing", path="$.items[2].shape", hint="do this", code="some-code")
    error.add_note("a note")
    return error


def told(error: Any) -> tuple[Any, ...]:
    return (
        type(error),
        str(error),
        error.args,
        error.reason,
        error.path,
        error.hint,
        error.code,
        getattr(error, "__notes__", None),
    )


def raising(name: str) -> None:
    raise made(getattr(errors, name))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_the_same_after_pickle_and_copy(kind: type[Any]) -> None:
    error = made(kind)
    assert error.path == "$.items[2].shape"
    assert str(error) == "no such thing - at $.items[2].shape"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert told(pickle.loads(pickle.dumps(error, protocol))) == told(error)
    assert told(copy.copy(error)) == told(copy.deepcopy(error)) == told(error)
    bare = kind("m")
    assert told(pickle.loads(pickle.dumps(bare))) == told(bare)
    assert bare.path is None


def test_an_error_is_the_same_after_another_process_raised_it() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for kind in CLASSES:
            found: Any = pool.submit(raising, kind.__name__).exception()
            # The pool chains its own traceback, nothing else.
            assert told(found)[:7] == told(made(kind))[:7]
