"""The loop over a pickle's opcodes: a stack, a memo and marks, and nothing that could be called."""

from __future__ import annotations

import re
import struct
import time
from typing import Any, Final

import numpy as np

from mmformat.errors import DecodeError, LimitError, UnsafePickleError
from mmformat.legacy.instructions import (
    add_items,
    build,
    find_global,
    new,
    reduce,
    set_items,
    target_list,
)
from mmformat.legacy.latin1 import LONG_NBYTES, long_text
from mmformat.legacy.nodes import Marked
from mmformat.legacy.text_opcodes import TEXT, integer, line, truncated

__all__ = ["Run"]

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
        for tick in range(0, limits.opcodes, _TICK):
            if tick and time.monotonic() > machine.deadline_s:
                raise LimitError(
                    f"expected an end within {limits.time_s} s", path=machine.path(position)
                )
            for _ in range(min(_TICK, limits.opcodes - tick)):
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
    machine.limits.check("opcodes", count, machine.path(start))
    stack.extend(np.frombuffer(machine.source, dtype, count, start)["value"].tolist())
    return end


def _bytes(source: memoryview, begin: int, end: int) -> bytes | memoryview:
    return bytes(source[begin:end]) if end - begin <= SMALL else source[begin:end]
