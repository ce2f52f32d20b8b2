"""How much a page may show, whatever the message holds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Budget", "PageBounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBounds:
    """Bound what a page shows and what is read for it; the page says what it leaves out.

    Parameters
    ----------
    items, tensors : int
        Items that get a section, and tensors whose values are looked at.
    pictures, frames : int
        Pictures in all, and of one series, as a video.
    edge : int
        Pixels of a picture's longer side.
    values : int
        Values of a tensor that are looked at.
    rows : int
        Rows of one table.
    characters : int
        Of one value in a table.
    picture_nbytes : int
        Bytes of all pictures.
    decompressed_nbytes : int
        Bytes that are decompressed to look at values; a message with more shows none.
    """

    items: int = 64
    tensors: int = 200
    pictures: int = 48
    frames: int = 12
    edge: int = 256
    values: int = 2**18
    rows: int = 500
    characters: int = 2000
    picture_nbytes: int = 6 * 2**20
    decompressed_nbytes: int = 2**29


@dataclass(slots=True)
class Budget:
    """Count what is left of the bounds while a page is drawn.

    Examples
    --------
    >>> budget = Budget(PageBounds(pictures=1))
    >>> budget.has_picture, budget.take_picture(b"png"), budget.has_picture
    (True, b'png', False)
    """

    bounds: PageBounds
    tensors: int = 0
    pictures: int = 0
    picture_nbytes: int = 0

    @property
    def has_picture(self) -> bool:
        """Whether one more may be drawn."""
        return (
            self.pictures < self.bounds.pictures
            and self.picture_nbytes < self.bounds.picture_nbytes
        )

    def take_picture(self, png: bytes) -> bytes:
        """Count a picture and return it."""
        self.pictures += 1
        self.picture_nbytes += len(png)
        return png

    def take_tensor(self) -> bool:
        """Count a tensor whose values are looked at; False when there are enough."""
        self.tensors += 1
        return self.tensors <= self.bounds.tensors
