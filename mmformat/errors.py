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
    """Be the root of every error that this library raises on purpose.

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
        self.path = path
        self.hint = hint
        self.reason = message
        if code is not None:
            self.code = code
        super().__init__(message if path is None else f"{message} - at {path}")

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (pools, sandboxes); keyword arguments need help there.
        return (_rebuild, (type(self), self.reason, self.path, self.hint, self.code))


def _rebuild(
    cls: type[MMFormatError], message: str, path: str | None, hint: str | None, code: str
) -> MMFormatError:
    return cls(message, path=path, hint=hint, code=code)


class ModelError(MMFormatError, ValueError):
    """Say that a value of the model is not what it must be."""

    code = "model"


class LimitError(MMFormatError, ValueError):
    """Say that a bound of :class:`mmformat.Limits` would be passed; nothing was allocated."""

    code = "limit"


class MaterializeError(MMFormatError, ValueError):
    """Say that a source could not be turned into tensors."""

    code = "materialize"


class EncodeError(MMFormatError, ValueError):
    """Say that a value cannot travel; the path names it."""

    code = "encode"


class DecodeError(MMFormatError, ValueError):
    """Say that bytes are not a valid message."""

    code = "decode"


class TruncatedError(DecodeError):
    """Say that the bytes end before the message does."""

    code = "truncated"


class SchemaError(DecodeError):
    """Say that the Arrow schema is not the one of this format."""

    code = "schema"


class VersionError(DecodeError):
    """Say that the message needs a newer reader; no tensor was looked at."""

    code = "version"


class IntegrityError(DecodeError):
    """Say that the parts of a message contradict each other or their digest."""

    code = "integrity"


class TransportError(MMFormatError, OSError):
    """Say that a message could not be moved."""

    code = "transport"


class TransportTimeoutError(TransportError, TimeoutError):
    """Say that a deadline passed before the message moved."""

    code = "timeout"


class ArenaFullError(TransportError):
    """Say that the arena has no room, now or ever; the message says which."""

    code = "arena-full"


class StaleHandleError(TransportError):
    """Say that a handle names a slot whose content is gone."""

    code = "stale-handle"


class PlacementError(MMFormatError, RuntimeError):
    """Say that tensors could not be placed on the device."""

    code = "placement"


class UnsafePickleError(MMFormatError, ValueError):
    """Say that a pickle asks for something that is not on the allow-list; nothing was executed."""

    code = "unsafe-pickle"


class MissingExtraError(MMFormatError, ImportError):
    """Say that an optional dependency is absent; the hint is the install command."""

    code = "missing-extra"


class UnsupportedInterpreterError(MMFormatError, ImportError):
    """Say that a subinterpreter imports the package; catch it as ImportError, for it has no name.

    The import that would name it is the one that fails.
    """

    code = "subinterpreter"
