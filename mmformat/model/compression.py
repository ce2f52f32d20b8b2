"""Which tensors a message compresses, and how."""

from __future__ import annotations

from dataclasses import dataclass

from mmformat.errors import ModelError

__all__ = ["Compression"]

CODECS = ("lz4", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """Choose the codec and the size from which tensors are compressed.

    Parameters
    ----------
    codec : {"lz4", "auto"}
        ``"auto"`` samples each large tensor first and leaves alone what does not shrink.
    threshold_nbytes : int, default 10 MiB
        Tensors of more bytes than this travel in a compressed record batch.

    Raises
    ------
    ModelError
        For another codec or a negative threshold.

    Examples
    --------
    >>> Compression(codec="lz4").threshold_nbytes
    10485760
    """

    codec: str = "lz4"
    threshold_nbytes: int = 10 * 2**20

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ModelError(f"expected a codec of {CODECS}, got {self.codec!r}", path="$.codec")
        if type(self.threshold_nbytes) is not int or self.threshold_nbytes < 0:
            raise ModelError(
                f"expected a threshold of 0 bytes or more, got {self.threshold_nbytes!r}",
                path="$.threshold_nbytes",
            )

    @classmethod
    def of(cls, value: Compression | str | None) -> Compression | None:
        """Return the value itself, or the defaults of the codec that a text names."""
        return cls(codec=value) if isinstance(value, str) else value
