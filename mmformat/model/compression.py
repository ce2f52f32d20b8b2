"""Which tensors a message compresses, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmformat.errors import ModelError
from mmformat.model.arguments import check_text, check_type

__all__ = ["Compression"]

CODECS = ("lz4", "zstd", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """Choose the codec and the size from which tensors are compressed.

    Parameters
    ----------
    codec : {"lz4", "zstd", "auto"}
        ``"zstd"`` compresses better and slower, for stored files. ``"auto"`` samples each large
        tensor and compresses it with LZ4 if that pays; the message records why.
    threshold_nbytes : int, default 10 MiB
        Larger tensors are sent in a compressed record batch.
    link_gbit_s : float, optional
        For ``"auto"``: the rate of the link. The sample is then timed too, and a tensor is
        compressed if it arrives sooner. If omitted, every tensor that shrinks to nine tenths is
        compressed.

    Raises
    ------
    ModelError
        If the codec is unknown, the threshold negative, or the link invalid or not for "auto".

    Examples
    --------
    >>> Compression(codec="lz4").threshold_nbytes
    10485760
    """

    codec: str = "lz4"
    threshold_nbytes: int = 10 * 2**20
    link_gbit_s: float | None = None

    def __post_init__(self) -> None:
        check_text(self.codec, CODECS, name="codec")
        if type(self.threshold_nbytes) is not int or self.threshold_nbytes < 0:
            raise ModelError(
                f"expected a threshold of 0 bytes or more, got {self.threshold_nbytes!r}",
                path="$.threshold_nbytes",
            )
        link = self.link_gbit_s
        if link is None:
            return
        if type(link) not in (int, float) or not 0 < link < math.inf:
            raise ModelError(f"expected a rate over 0 Gbit/s, got {link!r}", path="$.link_gbit_s")
        if self.codec != "auto":
            raise ModelError(
                f"expected no link for codec {self.codec!r}",
                path="$.link_gbit_s",
                hint='codec="auto" weighs the link',
            )

    @classmethod
    def of(cls, value: Compression | str | None) -> Compression | None:
        """Return the value itself, or the defaults of the codec that a text names.

        Raises
        ------
        ModelError
            For anything else.
        """
        if isinstance(value, str):
            return cls(codec=value)
        check_type(
            value, (cls, type(None)), "a Compression, 'lz4', 'auto' or None", name="compression"
        )
        return value
