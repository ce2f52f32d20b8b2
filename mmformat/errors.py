"""The one error tree: a class for each decision that a caller can make, each with a stable code."""

from __future__ import annotations

__all__ = [
    "ArenaFullError",
    "DecodeError",
    "EncodeError",
    "IntegrityError",
    "LimitError",
    "MMFormatError",
    "MaterializeError",
    "MissingExtraError",
    "ModelError",
    "PlacementError",
    "SchemaError",
    "StaleHandleError",
    "TransportError",
    "TransportTimeoutError",
    "TruncatedError",
    "UnsafePickleError",
    "UnsupportedInterpreterError",
    "VersionError",
]


class MMFormatError(Exception):
    """Root of every error that this library raises on purpose.

    Parameters
    ----------
    message : str
        What went wrong, in the form ``expected X, got Y``.
    path : str, optional
        Where, as ``$.items[2].shape``; it is appended to the message.
    hint : str, optional
        What the caller can do about it.
    code : str, optional
        A stable name of the exact broken promise; the class's own code when omitted.

    Examples
    --------
    >>> error = MMFormatError("expected int, got str", path="$.items[0].hash", hint="use int(x)")
    >>> print(error)
    expected int, got str - at $.items[0].hash
    >>> error.code, error.hint
    ('error', 'use int(x)')
    """

    code: str = "error"
    hint: str | None
    path: str | None

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        # First: ImportError has a path too, and resets it.
        super().__init__(message if path is None else f"{message} - at {path}")
        self.path = path
        self.hint = hint
        self.reason = message
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (pools, sandboxes); keyword arguments need help there.
        arguments = (type(self), self.reason, self.path, self.hint, self.code)
        notes = getattr(self, "__notes__", None)
        return (_rebuild, arguments, None if notes is None else {"__notes__": notes})


def _rebuild(
    cls: type[MMFormatError], message: str, path: str | None, hint: str | None, code: str
) -> MMFormatError:
    return cls(message, path=path, hint=hint, code=code)


class ModelError(MMFormatError, ValueError):
    """An item or request field, or an argument, is invalid."""

    code = "model"


class LimitError(MMFormatError, ValueError):
    """A bound of :class:`mmformat.Limits` would be exceeded; nothing was allocated."""

    code = "limit"


class MaterializeError(MMFormatError, ValueError):
    """A source could not be turned into tensors."""

    code = "materialize"


class EncodeError(MMFormatError, ValueError):
    """A value cannot be encoded; the path names it."""

    code = "encode"


class DecodeError(MMFormatError, ValueError):
    """The bytes are not a valid message."""

    code = "decode"


class TruncatedError(DecodeError):
    """The bytes end before the message does."""

    code = "truncated"


class SchemaError(DecodeError):
    """The Arrow schema is not that of this format."""

    code = "schema"


class VersionError(DecodeError):
    """The message needs a newer reader; no tensor was read."""

    code = "version"


class IntegrityError(DecodeError):
    """The parts of a message contradict each other or their digest."""

    code = "integrity"


class TransportError(MMFormatError, OSError):
    """A message could not be transferred."""

    code = "transport"


class TransportTimeoutError(TransportError, TimeoutError):
    """The deadline passed before the message was transferred."""

    code = "timeout"


class ArenaFullError(TransportError):
    """The arena has no room, now or ever; the message says which."""

    code = "arena-full"


class StaleHandleError(TransportError):
    """The handle names a slot whose content is gone."""

    code = "stale-handle"


class PlacementError(MMFormatError, RuntimeError):
    """Tensors could not be placed on the device."""

    code = "placement"


class UnsafePickleError(MMFormatError, ValueError):
    """A pickle needs something that is not on the allow-list; nothing was executed."""

    code = "unsafe-pickle"


class MissingExtraError(MMFormatError, ImportError):
    """An optional dependency is missing; the hint is the install command."""

    code = "missing-extra"


class UnsupportedInterpreterError(MMFormatError, ImportError):
    """A subinterpreter imported the package; catch it as ImportError: it has no public name.

    The import that would name it is the one that fails.
    """

    code = "subinterpreter"
