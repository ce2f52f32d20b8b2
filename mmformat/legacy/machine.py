"""The pickle machine: opcodes, a stack and a memo that build inert values and call nothing."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from mmformat.errors import DecodeError, LimitError, TruncatedError, UnsafePickleError
from mmformat.legacy.constructors import resolve
from mmformat.legacy.limits import Budget
from mmformat.legacy.nodes import (
    KEY_BITS,
    LONG_NBYTES,
    Arguments,
    Instance,
    Marked,
    Name,
    is_long_key,
    long_text,
)

__all__ = [
    "TEXT",
    "Machine",
    "Run",
    "add_items",
    "build",
    "find_global",
    "integer",
    "line",
    "new",
    "reduce",
    "set_items",
    "target_list",
    "truncated",
]

_LINE: Final = 4096
"""Longest line of an opcode that is no text."""


def truncated(machine: Any, position: int) -> TruncatedError:
    """Return the error for a length that passes the end."""
    return TruncatedError(
        f"expected a length within {len(machine.source):,} bytes, got one past the end",
        path=machine.path(position),
    )


def line(machine: Any, position: int, longest: int = _LINE) -> tuple[bytes, int]:
    """Return the line at a position, without its end, and the position after it."""
    window = machine.source[position : position + longest].tobytes()
    found = window.find(b"\n")
    if found < 0:
        if position + longest >= len(machine.source):
            raise TruncatedError("expected the end of a line", path=machine.path(position))
        raise DecodeError(
            f"expected a line of at most {longest:,} bytes", path=machine.path(position)
        )
    return window[:found], position + found + 1


def _long_line(machine: Any, position: int) -> tuple[bytes, int]:
    # Protocol 0 writes whole tensors as one line, so this doubles until it finds the end.
    longest = _LINE
    while True:
        try:
            return line(machine, position, longest)
        except TruncatedError:
            raise
        except DecodeError:
            longest *= 8


def integer(data: bytes) -> int:
    """Return the number that a line holds; int() alone would take more than pickle writes."""
    text = data.strip()
    if not text.lstrip(b"-").isdigit():
        raise ValueError(f"a number of {data[:20]!r}")
    return int(text)


def _text_int(machine: Any, position: int) -> tuple[Any, int]:
    data, end = line(machine, position)
    if data in (b"00", b"01"):
        return data == b"01", end
    data = data.removesuffix(b"L")
    machine.limits.check("integer_nbytes", len(data) * 2 // 5, machine.path(position))
    return integer(data), end


def _text_float(machine: Any, position: int) -> tuple[Any, int]:
    data, end = line(machine, position)
    return float(data), end


def _text_unicode(machine: Any, position: int) -> tuple[Any, int]:
    data, end = _long_line(machine, position)
    # The function itself: a look-up by name would import the codec's module.
    return codecs.raw_unicode_escape_decode(data)[0], end


def _text_string(machine: Any, position: int) -> tuple[Any, int]:
    data, end = _long_line(machine, position)
    if len(data) < 2 or data[0] != data[-1] or data[:1] not in (b"'", b'"'):
        raise ValueError("a string without its quotes")
    return _python2(codecs.escape_decode(data[1:-1])[0]), end


def _binary_string(machine: Any, position: int) -> tuple[Any, int]:
    width = 1 if machine.source[position - 1] == 0x55 else 4
    begin = position + width
    count = int.from_bytes(machine.source[position:begin], "little", signed=width == 4)
    if count < 0:
        raise ValueError("a negative length")
    if begin + count > len(machine.source):
        raise truncated(machine, position)
    return _python2(bytes(machine.source[begin : begin + count])), begin + count


def _python2(data: bytes) -> str | bytes:
    # Python 2 had one type for both; text is what decodes as ASCII, as pickle.loads has it.
    return data.decode("ascii") if data.isascii() else data


TEXT: Final[dict[int, Callable[[Any, int], tuple[Any, int]]]] = {
    0x49: _text_int,  # INT
    0x4C: _text_int,  # LONG
    0x46: _text_float,  # FLOAT
    0x56: _text_unicode,  # UNICODE
    0x53: _text_string,  # STRING
    0x54: _binary_string,  # BINSTRING
    0x55: _binary_string,  # SHORT_BINSTRING
}


_HASHABLE: Final = frozenset({str, int, float, bool, bytes, type(None)})


def find_global(machine: Any, module: Any, name: Any, position: int) -> Name:
    """Return what stands for a global, or refuse it by name."""
    if type(module) is not str or type(name) is not str:
        raise UnsafePickleError(
            "expected the two names of a global, got "
            f"{type(module).__name__} and {type(name).__name__}",
            path=machine.path(position),
        )
    found = resolve(module, name)
    if found is None:
        raise UnsafePickleError(
            f"expected an allow-listed name, got {_shown(module)}.{_shown(name)}",
            path=machine.path(position),
            hint="nothing was executed; mmformat.legacy.ALLOWED says which names are read, and why",
            code="unsafe-pickle-global",
        )
    machine.seen.add(found.path)
    return found


def _shown(name: str) -> str:
    # A name of a file goes to a terminal: no control characters, no page of text.
    return ascii(name[:100])[1:-1]


def reduce(machine: Any, target: Any, arguments: Any, position: int) -> Any:
    """Call our own function for an allow-listed global."""
    path = machine.path(position)
    if type(target) is not Name or target.call is None:
        raise UnsafePickleError(
            f"expected a call of an allow-listed function, got one of {_kind(target)}",
            path=path,
            code="unsafe-pickle-call",
        )
    if type(arguments) is not tuple:
        raise DecodeError(f"expected a tuple of arguments, got {_kind(arguments)}", path=path)
    # A call of five bytes may work on a megabyte, again and again: the clock at each.
    machine.budget.check_time(path)
    return target.call(machine, Arguments(target, arguments, path))


def new(machine: Any, target: Any, arguments: Any, position: int) -> Any:
    """Make an instance of an allow-listed class, without its constructor."""
    path = machine.path(position)
    if type(target) is not Name or target.new is None:
        raise UnsafePickleError(
            f"expected an instance of an allow-listed class, got one of {_kind(target)}",
            path=path,
            code="unsafe-pickle-call",
        )
    if type(arguments) is not tuple:
        raise DecodeError(f"expected a tuple of arguments, got {_kind(arguments)}", path=path)
    return target.new(machine, Arguments(target, arguments, path))


def build(machine: Any, target: Any, state: Any, position: int) -> None:
    """Give an instance its state; a class or a plain value takes none."""
    method = getattr(type(target), "build", None)
    if method is None:
        raise UnsafePickleError(
            f"expected BUILD of an instance, got one of {_kind(target)}",
            path=machine.path(position),
            code="unsafe-pickle-build",
        )
    path = machine.path(position)
    machine.budget.check_time(path)
    method(target, state, path)


def _kind(value: Any) -> str:
    if type(value) is Name:
        return _shown(value.path)
    return value.cls if type(value) is Instance else type(value).__name__


def target_list(machine: Any, target: Any, position: int) -> list[Any]:
    """Return the list that an opcode appends to."""
    if type(target) is not list:
        raise DecodeError(
            f"expected a list to append to, got {_kind(target)}", path=machine.path(position)
        )
    return target


def _key(machine: Any, key: Any, position: int) -> Any:
    # Keys are hashed here and now; a nested tuple could take exponential time or the whole C stack.
    parts = key if type(key) is tuple else (key,)
    if all(type(part) in _HASHABLE for part in parts):
        for part in parts:
            if is_long_key(part):
                raise DecodeError(
                    f"an integer key may have {KEY_BITS} bits, got {part.bit_length()}",
                    path=machine.path(position),
                )
        return key
    raise DecodeError(
        f"expected a text, a number, or a flat tuple as key, got {_kind(key)}",
        path=machine.path(position),
    )


def set_items(machine: Any, target: Any, items: list[Any], position: int) -> None:
    """Set pairs of a dict, or of what stands for one."""
    if type(target) is Marked and type(target.value) is dict:
        target = target.value
    if type(target) is not dict:
        raise DecodeError(
            f"expected a dict to set items of, got {_kind(target)}", path=machine.path(position)
        )
    if len(items) % 2:
        raise DecodeError("expected keys and values in pairs", path=machine.path(position))
    for index in range(0, len(items), 2):
        key = items[index]
        target[key if type(key) is str else _key(machine, key, position)] = items[index + 1]


def add_items(machine: Any, target: Any, items: list[Any], position: int) -> None:
    """Add to what stands for a set."""
    if type(target) is not Marked or type(target.value) is not set:
        raise DecodeError(
            f"expected a set to add to, got {_kind(target)}", path=machine.path(position)
        )
    target.value.update(_key(machine, item, position) for item in items)


SMALL: Final = 256
"""Byte strings up to this size become ``bytes``; larger ones stay views of the file."""

_FLOAT: Final = struct.Struct(">d")
_TICK: Final = 8192
_HEX: Final = tuple(f"0x{code:02x}" for code in range(256))
_RUNS: Final[dict[int, tuple[re.Pattern[bytes], np.dtype[Any]]]] = {
    op: (
        re.compile(b"(?:%c[\\x00-\\xff]{%d})+" % (op, size)),
        np.dtype([("op", "u1"), ("value", f"<{kind}{size}")]),
    )
    for op, kind, size in ((0x4B, "u", 1), (0x4D, "u", 2), (0x4A, "i", 4))
}


class Run:
    """One run of a machine over its source; the position is where it stands, for errors."""

    __slots__ = ("machine", "position")

    def __init__(self, machine: Any, start: int) -> None:
        self.machine = machine
        self.position = start

    def run(self) -> tuple[Any, int]:
        """Interpret; the order of the branches is that of how often an opcode occurs."""
        machine = self.machine
        source = machine.source
        size = len(source)
        limits = machine.limits
        max_memo = limits.memo
        position = self.position
        memo: dict[int, Any] = {}
        stack: list[Any] = []
        marks: list[list[Any]] = []
        from_bytes = int.from_bytes
        budget = machine.budget
        # Streams nested in this one count their own; what this one did is added at each tick.
        while budget.opcodes < limits.opcodes:
            budget.check_time(machine.path(position))
            grant = min(_TICK, limits.opcodes - budget.opcodes)
            for used in range(1, grant + 1):
                self.position = position
                op = source[position]
                position += 1
                if op == 0x94:  # MEMOIZE
                    index = len(memo)
                    if index >= max_memo:
                        limits.check("memo", index + 1, machine.path(position))
                    memo[index] = stack[-1]
                elif op == 0x8C:  # SHORT_BINUNICODE
                    end = position + 1 + source[position]
                    if end > size:
                        raise truncated(machine, position)
                    stack.append(str(source[position + 1 : end], "utf-8", "surrogatepass"))
                    position = end
                elif op == 0x4B:  # BININT1
                    if source[position + 1] == 0x4B:
                        position = _integers(machine, position - 1, op, stack)
                    else:
                        stack.append(source[position])
                        position += 1
                elif op == 0x4D:  # BININT2
                    if source[position + 2] == 0x4D:
                        position = _integers(machine, position - 1, op, stack)
                    else:
                        stack.append(source[position] | source[position + 1] << 8)
                        position += 2
                elif op == 0x4A:  # BININT
                    if source[position + 4] == 0x4A:
                        position = _integers(machine, position - 1, op, stack)
                    else:
                        stack.append(
                            from_bytes(source[position : position + 4], "little", signed=True)
                        )
                        position += 4
                elif op == 0x68:  # BINGET
                    stack.append(memo[source[position]])
                    position += 1
                elif op == 0x4E:  # NONE
                    stack.append(None)
                elif op == 0x71:  # BINPUT
                    memo[source[position]] = stack[-1]
                    position += 1
                elif op == 0x28:  # MARK
                    marks.append(stack)
                    stack = []
                elif op == 0x58:  # BINUNICODE
                    end = position + 4 + from_bytes(source[position : position + 4], "little")
                    if end > size:
                        raise truncated(machine, position)
                    if end - position > LONG_NBYTES:
                        stack.append(long_text(source, position + 4, end, stack))
                    else:
                        stack.append(str(source[position + 4 : end], "utf-8", "surrogatepass"))
                    position = end
                elif op == 0x86:  # TUPLE2
                    stack[-2:] = [(stack[-2], stack[-1])]
                elif op == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                elif op == 0x87:  # TUPLE3
                    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
                elif op == 0x52:  # REDUCE
                    arguments = stack.pop()
                    stack[-1] = reduce(machine, stack[-1], arguments, position)
                elif op == 0x74:  # TUPLE
                    items = stack
                    stack = marks.pop()
                    stack.append(tuple(items))
                elif op == 0x75:  # SETITEMS
                    items = stack
                    stack = marks.pop()
                    set_items(machine, stack[-1], items, position)
                elif op == 0x73:  # SETITEM
                    value = stack.pop()
                    key = stack.pop()
                    set_items(machine, stack[-1], [key, value], position)
                elif op == 0x65:  # APPENDS
                    items = stack
                    stack = marks.pop()
                    target_list(machine, stack[-1], position).extend(items)
                elif op == 0x61:  # APPEND
                    value = stack.pop()
                    target_list(machine, stack[-1], position).append(value)
                elif op == 0x7D:  # EMPTY_DICT
                    stack.append({})
                elif op == 0x5D:  # EMPTY_LIST
                    stack.append([])
                elif op == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                elif op == 0x89:  # NEWFALSE
                    stack.append(False)
                elif op == 0x88:  # NEWTRUE
                    stack.append(True)
                elif op == 0x93:  # STACK_GLOBAL
                    name = stack.pop()
                    module = stack.pop()
                    stack.append(find_global(machine, module, name, position))
                elif op == 0x62:  # BUILD
                    value = stack.pop()
                    build(machine, stack[-1], value, position)
                elif op == 0x81:  # NEWOBJ
                    arguments = stack.pop()
                    stack[-1] = new(machine, stack[-1], arguments, position)
                elif op in (0x42, 0x43):  # BINBYTES, SHORT_BINBYTES
                    width = 4 if op == 0x42 else 1
                    begin = position + width
                    end = begin + from_bytes(source[position:begin], "little")
                    if end > size:
                        raise truncated(machine, position)
                    stack.append(_bytes(source, begin, end))
                    position = end
                elif op == 0x47:  # BINFLOAT
                    stack.append(_FLOAT.unpack_from(source, position)[0])
                    position += 8
                elif op in (0x8A, 0x8B):  # LONG1, LONG4
                    width = 1 if op == 0x8A else 4
                    begin = position + width
                    count = from_bytes(source[position:begin], "little", signed=width == 4)
                    if count < 0:
                        raise DecodeError(
                            "expected a length of 0 or more, got a negative one",
                            path=machine.path(position),
                        )
                    limits.check("integer_nbytes", count, machine.path(position))
                    stack.append(from_bytes(source[begin : begin + count], "little", signed=True))
                    position = begin + count
                elif op == 0x95:  # FRAME
                    length = from_bytes(source[position : position + 8], "little")
                    position += 8
                    if position + length > size:
                        raise truncated(machine, position)
                elif op == 0x80:  # PROTO
                    machine.protocol = source[position]
                    position += 1
                    if machine.protocol > 5:
                        raise DecodeError(
                            f"expected a protocol of 0 to 5, got {machine.protocol}",
                            path=machine.path(position),
                        )
                elif op == 0x2E:  # STOP
                    if len(stack) != 1 or marks:
                        raise DecodeError(
                            f"expected one value at STOP, got {len(stack)}, {len(marks)} marks",
                            path=machine.path(position),
                        )
                    budget.opcodes += used
                    return stack[0], position
                elif op in (0x72, 0x70):  # LONG_BINPUT, PUT
                    if op == 0x72:
                        index = from_bytes(source[position : position + 4], "little")
                        position += 4
                    else:
                        text, position = line(machine, position)
                        index = integer(text)
                        if index < 0:
                            raise DecodeError(
                                "expected a memo index of 0 or more, got a negative one",
                                path=machine.path(position),
                            )
                    if len(memo) >= max_memo:
                        limits.check("memo", len(memo) + 1, machine.path(position))
                    memo[index] = stack[-1]
                elif op == 0x6A:  # LONG_BINGET
                    stack.append(memo[from_bytes(source[position : position + 4], "little")])
                    position += 4
                elif op == 0x67:  # GET
                    text, position = line(machine, position)
                    stack.append(memo[integer(text)])
                elif op in (0x8E, 0x96):  # BINBYTES8, BYTEARRAY8
                    end = position + 8 + from_bytes(source[position : position + 8], "little")
                    if end > size:
                        raise truncated(machine, position)
                    stack.append(_bytes(source, position + 8, end))
                    position = end
                elif op == 0x8D:  # BINUNICODE8
                    end = position + 8 + from_bytes(source[position : position + 8], "little")
                    if end > size:
                        raise truncated(machine, position)
                    stack.append(long_text(source, position + 8, end, stack))
                    position = end
                elif op == 0x63:  # GLOBAL
                    module, position = line(machine, position)
                    name, position = line(machine, position)
                    stack.append(
                        find_global(machine, str(module, "utf-8"), str(name, "utf-8"), position)
                    )
                elif op == 0x8F:  # EMPTY_SET
                    stack.append(Marked("set", set()))
                elif op == 0x90:  # ADDITEMS
                    items = stack
                    stack = marks.pop()
                    add_items(machine, stack[-1], items, position)
                elif op == 0x91:  # FROZENSET
                    items = stack
                    stack = marks.pop()
                    frozen = Marked("frozenset", set())
                    add_items(machine, frozen, items, position)
                    stack.append(frozen)
                elif op == 0x97:  # NEXT_BUFFER
                    if not machine.buffers:
                        raise DecodeError(
                            "expected another out-of-band buffer, got none left",
                            path=machine.path(position),
                            hint="pass them: convert(data, buffers=[...])",
                        )
                    stack.append(machine.buffers.pop(0))
                elif op == 0x98:  # READONLY_BUFFER
                    if not isinstance(stack[-1], bytes | memoryview):
                        raise DecodeError("expected a buffer", path=machine.path(position))
                elif op == 0x30:  # POP
                    if stack:
                        stack.pop()
                    else:
                        stack = marks.pop()
                elif op == 0x31:  # POP_MARK
                    stack = marks.pop()
                elif op == 0x32:  # DUP
                    stack.append(stack[-1])
                elif op == 0x6C:  # LIST
                    items = stack
                    stack = marks.pop()
                    stack.append(items)
                elif op == 0x64:  # DICT
                    items = stack
                    stack = marks.pop()
                    made: dict[Any, Any] = {}
                    set_items(machine, made, items, position)
                    stack.append(made)
                elif op == 0x92:  # NEWOBJ_EX
                    keywords = stack.pop()
                    arguments = stack.pop()
                    if not isinstance(keywords, dict) or keywords:
                        raise UnsafePickleError(
                            "expected no keyword arguments in NEWOBJ_EX, got some",
                            path=machine.path(position),
                        )
                    stack[-1] = new(machine, stack[-1], arguments, position)
                elif op == 0x69:  # INST
                    module, position = line(machine, position)
                    name, position = line(machine, position)
                    items = stack
                    stack = marks.pop()
                    target = find_global(
                        machine, str(module, "utf-8"), str(name, "utf-8"), position
                    )
                    stack.append(new(machine, target, tuple(items), position))
                elif op == 0x6F:  # OBJ
                    items = stack
                    stack = marks.pop()
                    stack.append(new(machine, items[0], tuple(items[1:]), position))
                elif op in TEXT:
                    value, position = TEXT[op](machine, position)
                    stack.append(value)
                elif op in (0x51, 0x50):  # BINPERSID, PERSID
                    if op == 0x51:
                        identifier = stack.pop()
                    else:
                        identifier, position = line(machine, position)
                    if machine.persistent is None:
                        raise UnsafePickleError(
                            "expected no persistent ids outside torch files, got one",
                            path=machine.path(position),
                            code="unsafe-pickle-persistent",
                        )
                    stack.append(machine.persistent(identifier, machine.path(position)))
                elif op in (0x82, 0x83, 0x84):
                    raise UnsafePickleError(
                        "expected no extension codes (copyreg's registry), got one",
                        path=machine.path(position),
                        code="unsafe-pickle-extension",
                    )
                else:
                    raise DecodeError(
                        f"expected an opcode, got {_HEX[op]}", path=machine.path(position - 1)
                    )
            budget.opcodes += grant
        raise LimitError(
            f"expected at most {limits.opcodes:,} opcodes, got more",
            path=machine.path(position),
            hint="if you trust the file: PickleLimits(opcodes=...)",
        )


def _integers(machine: Any, start: int, op: int, stack: list[Any]) -> int:
    """Push a run of integers of one opcode, as token ids are; return the position after it."""
    pattern, dtype = _RUNS[op]
    found = pattern.match(machine.source, start)
    if found is None:  # the bytes end within the last of them
        raise truncated(machine, start)
    end: int = found.end()
    count = (end - start) // dtype.itemsize
    machine.budget.opcodes += count - 1
    machine.limits.check("opcodes", machine.budget.opcodes, machine.path(start))
    stack.extend(np.frombuffer(machine.source, dtype, count, start)["value"].tolist())
    return end


def _bytes(source: memoryview, begin: int, end: int) -> bytes | memoryview:
    return bytes(source[begin:end]) if end - begin <= SMALL else source[begin:end]


class Machine:
    """Run one pickle stream over ``source`` and return what it describes.

    Parameters
    ----------
    source : memoryview of bytes
        The stream; large byte strings of the result are slices of it.
    budget : Budget
        The bounds, and what all streams of the source have used of them.
    where : str
        What precedes a byte position in error paths.
    buffers : sequence of memoryview
        Out-of-band buffers, in the order of protocol 5.
    persistent : callable, optional
        Our own answer to persistent ids; they are refused without it.
    nesting : int
        How many streams this one lies in.

    Notes
    -----
    **Copies**: byte strings over 256 bytes are views; text is decoded once.
    **Lifetime**: the result keeps ``source`` alive.
    """

    __slots__ = (
        "budget",
        "buffers",
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
        budget: Budget,
        where: str = "$",
        buffers: Sequence[memoryview] = (),
        persistent: Callable[[Any, str], Any] | None = None,
        nesting: int = 0,
        seen: set[str] | None = None,
    ) -> None:
        self.source = source
        self.budget = budget
        self.limits = budget.limits
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
        """Return a machine for a stream within this one, which draws on the same budget."""
        return Machine(
            source,
            budget=self.budget,
            where=where,
            persistent=persistent,
            nesting=self.nesting + 1,
            seen=self.seen,
        )

    def enter(self, nbytes: int, path: str) -> None:
        """Check the bounds on nested streams before one of ``nbytes`` is read."""
        self.limits.check("nesting", self.nesting + 1, path)
        self.budget.enter(nbytes, path)

    def nested(self, source: memoryview, path: str) -> Any:
        """Return the value of a pickle that lies within this one as bytes."""
        self.enter(source.nbytes, path)
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
