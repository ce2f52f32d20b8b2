"""From bit patterns to codes: a perfect hash over at most 256 values, which grows on demand."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_VALUES", "CodeMap"]

MAX_VALUES: Final = 256

# Odd multipliers whose upper half spreads bit patterns; 256 values meet in 65,536 slots with a
# probability of about 0.4, so that one of these is free of meetings but for values made to meet.
_MULTIPLIERS: Final = tuple(
    np.uint32((0x9E3779B1 + 0x61C88646 * i) & 0xFFFFFFFF | 1) for i in range(64)
)
_HALF: Final = np.uint32(16)

# An empty slot holds a word that never comes to it, so that nothing is found there: of 16-bit words
# the slot's own complement; of 32-bit words 0, which comes to slot 0 alone, and there 1.
_EMPTY_16: Final = np.arange(65_536, dtype=np.uint32) ^ np.uint32(0xFFFF)
_EMPTY_32: Final = np.zeros(65_536, np.uint64)
_EMPTY_32[0] = 1


class CodeMap:
    """Map words (the bits of float32, float16 or bfloat16) to codes below 256.

    Parameters
    ----------
    values : array of uint32 or uint16
        The words that are known at first; a word's code is its first place. At most 256.

    Notes
    -----
    One entry of the table holds the word itself beside its code, so that one look-up both finds
    the code and proves it.

    Examples
    --------
    >>> known = CodeMap(np.array([10, 20], np.uint32))
    >>> codes = np.empty((1, 3), np.uint8)
    >>> known.encode(np.array([[20, 10, 30]], np.uint32), codes), codes.tolist()
    (True, [[1, 0, 2]])
    >>> known.values.tolist()
    [10, 20, 30]
    """

    __slots__ = ("_entries", "_multiplier", "values")

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self._multiplier: np.uint32 | None = None
        self._entries: npt.NDArray[Any] = np.empty(0, np.uint64)
        self._enter()

    def encode(self, words: npt.NDArray[Any], codes: npt.NDArray[np.uint8]) -> bool:
        """Write the code of each word; False when there are more than 256 words, or no hash.

        Parameters
        ----------
        words : array (rows, columns)
            Of the dtype of ``values``.
        codes : uint8 array (rows, columns)
            What is written; undefined when the result is False.
        """
        while self._entries.size:
            found = np.take(self._entries, self._slots(words), mode="clip")
            equal = found.astype(words.dtype) == words  # the lower half of an entry
            upper = found.view(np.uint8).reshape(*words.shape, found.itemsize)
            codes[...] = upper[..., words.itemsize]
            if bool(equal.all()):
                return True
            # Many elements, few values: what is new is found among the elements that failed.
            new = np.unique(words[~equal])
            if self.values.size + new.size > MAX_VALUES:
                return False
            self.values = np.concatenate([self.values, new])
            self._enter()
        return False

    def _enter(self) -> None:
        first, places = np.unique(self.values, return_index=True)
        if self.values.itemsize == 2:
            if not self._entries.size:
                self._entries = _EMPTY_16.copy()
            self._entries[first] = first.astype(np.uint32) | (places << 16).astype(np.uint32)
            return
        if not self._entries.size or not self._is_perfect(self._multiplier, first):
            free = next((each for each in _MULTIPLIERS if self._is_perfect(each, first)), None)
            self._entries = np.empty(0, np.uint64) if free is None else _EMPTY_32.copy()
            self._multiplier = free
        if self._multiplier is not None:
            slots = (first * self._multiplier) >> _HALF
            self._entries[slots] = first.astype(np.uint64) | (places << 32).astype(np.uint64)

    @staticmethod
    def _is_perfect(multiplier: np.uint32 | None, words: npt.NDArray[Any]) -> bool:
        if multiplier is None:
            return False
        return bool(np.unique((words * multiplier) >> _HALF).size == words.size)

    def _slots(self, words: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        if self._multiplier is None:
            return words.astype(np.intp)
        hashed: npt.NDArray[Any] = words * self._multiplier
        hashed >>= _HALF
        return hashed.astype(np.intp)
