"""A pickle machine that only builds inert values; it imports and calls nothing of a file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from mmformat.errors import DecodeError, LimitError, TruncatedError, UnsafePickleError
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.opcodes import Run

__all__ = ["Machine"]


class Machine:
    """Run one pickle stream over ``source`` and return what it describes.

    Parameters
    ----------
    source : memoryview of bytes
        The stream; large byte strings of the result are slices of it.
    limits : PickleLimits
        The bounds.
    deadline_s : float
        When to give up, on the monotonic clock.
    where : str
        What precedes a byte position in error paths.
    buffers : sequence of memoryview
        Out-of-band buffers, in the order of protocol 5.
    persistent : callable, optional
        Our own answer to persistent ids; they are refused without it.
    nesting : int
        How many torch streams this one lies in.

    Notes
    -----
    **Copies**: byte strings over 256 bytes are views; text is decoded once.
    **Lifetime**: the result keeps ``source`` alive.
    """

    __slots__ = (
        "buffers",
        "deadline_s",
        "limits",
        "nesting",
        "persistent",
        "protocol",
        "seen",
        "source",
        "where",
    )

    def __init__(
        self,
        source: memoryview,
        *,
        limits: PickleLimits,
        deadline_s: float,
        where: str = "$",
        buffers: Sequence[memoryview] = (),
        persistent: Callable[[Any, str], Any] | None = None,
        nesting: int = 0,
        seen: set[str] | None = None,
    ) -> None:
        self.source = source
        self.limits = limits
        self.deadline_s = deadline_s
        self.where = where
        self.buffers = list(buffers)
        self.persistent = persistent
        self.nesting = nesting
        self.seen: set[str] = set() if seen is None else seen
        self.protocol = 0

    def path(self, position: int) -> str:
        """Return the error path of a byte position."""
        return f"{self.where}@{position}"

    def inner(
        self, source: memoryview, where: str, persistent: Callable[[Any, str], Any] | None = None
    ) -> Machine:
        """Return a machine for a stream within this one, under the same bounds."""
        return Machine(
            source,
            limits=self.limits,
            deadline_s=self.deadline_s,
            where=where,
            persistent=persistent,
            nesting=self.nesting + 1,
            seen=self.seen,
        )

    def nested(self, source: memoryview, path: str) -> Any:
        """Return the value of a pickle that lies within this one as bytes."""
        self.limits.check("nesting", self.nesting + 1, path)
        return self.inner(source, f"{path}/pickle").load()[0]

    def load(self, start: int = 0) -> tuple[Any, int]:
        """Run from ``start`` to STOP; return the value and the position after it.

        Raises
        ------
        UnsafePickleError
            For a global that is not allow-listed, a persistent id, an extension code, or a call of
            anything that is no allow-listed global.
        TruncatedError, DecodeError, LimitError
            For a stream that ends early, contradicts itself, or asks for too much.
        """
        state = Run(self, start)
        try:
            return state.run()
        except IndexError:
            if state.position >= len(self.source):
                raise TruncatedError(
                    "expected a STOP instruction, got the end of the bytes",
                    path=self.path(len(self.source)),
                ) from None
            raise DecodeError(
                "expected a value on the stack, got none", path=self.path(state.position)
            ) from None
        except KeyError as error:
            raise DecodeError(
                f"expected a memo entry, got an unknown one: {error}",
                path=self.path(state.position),
            ) from None
        except (struct.error, ValueError, OverflowError) as error:
            if isinstance(error, DecodeError | LimitError | UnsafePickleError):
                raise
            if state.position + 8 > len(self.source) and isinstance(error, struct.error):
                raise TruncatedError(
                    "expected an argument, got the end of the bytes", path=self.path(state.position)
                ) from None
            raise DecodeError(
                f"expected a well-formed argument, got: {error}", path=self.path(state.position)
            ) from None
