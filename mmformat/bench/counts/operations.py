"""The operations that are counted, each repeatable, with what lets its result go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmformat import codec
from mmformat.arena import Arena, decode
from mmformat.bench.pages import touch
from mmformat.bench.payloads import payload, tensors_of
from mmformat.model.tensors import tensor_spec

__all__ = ["Operation", "operations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Name one operation of the library.

    Parameters
    ----------
    name, title : str
        For the cells, and for a table.
    run : callable
        Does it, the same at every call.
    after : callable
        Lets the result go.
    """

    name: str
    title: str
    run: Callable[[], Any]
    after: Callable[[Any], object]


@contextmanager
def operations(name: str) -> Iterator[list[Operation]]:
    """Return the operations with one payload; the arena is there while the context lasts."""
    chosen = payload(name)
    inputs = chosen.make(0)
    message = bytes(codec.encode(inputs))
    template = [(spec.shape, spec.dtype) for spec in map(tensor_spec, tensors_of(inputs))]
    with (
        Arena.create(nbytes=2 * chosen.nbytes + 2**22, ranks=1) as arena,
        Arena.attach(arena.name, rank=0) as reader,
    ):
        held = [arena.put(inputs)]

        def put_again(result: Any) -> None:
            # The slot is released with the result's last tensor.
            held[0] = arena.put(inputs)

        yield [
            Operation(
                name="encode",
                title="encode to frames",
                run=lambda: codec.encode(inputs).frames,
                after=_nothing,
            ),
            Operation(
                name="decode",
                title="decode a message, every page read",
                run=lambda: _touched(decode(message)),
                after=_nothing,
            ),
            Operation(
                name="put",
                title="put into a touched arena",
                run=lambda: arena.put(inputs),
                after=reader.release,
            ),
            Operation(
                name="reserve",
                title="reserve a slot to write features in place",
                run=lambda: arena.reserve(template),
                after=lambda reserved: reserved.__exit__(None, None, None),
            ),
            Operation(
                name="get",
                title="get from the arena, every page read",
                run=lambda: _touched(reader.get(held[0])),
                after=put_again,
            ),
        ]


def _touched(inputs: Any) -> Any:
    touch(inputs)
    return inputs


def _nothing(result: Any) -> None:
    """Let the result go by its last reference."""
