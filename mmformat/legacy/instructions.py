"""What the opcodes that make or change objects do to inert values."""

from __future__ import annotations

from typing import Any, Final

from mmformat.errors import DecodeError, UnsafePickleError
from mmformat.legacy.constructors import resolve
from mmformat.legacy.nodes import Arguments, Instance, Marked, Name

__all__ = ["add_items", "build", "find_global", "new", "reduce", "set_items", "target_list"]

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
    method(target, state, machine.path(position))


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
    kind = type(key)
    if kind in _HASHABLE:
        return key
    if kind is tuple and all(type(part) in _HASHABLE for part in key):
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
