"""Recognize a file that is not a message by its first bytes, and name the command that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from mmformat.errors import MMFormatError

__all__ = ["Recognized", "missing", "recognize"]

_HEAD_NBYTES: Final = 16


class Recognized(NamedTuple):
    """What a file is, and the command line or call that takes it."""

    noun: str
    hint: str


_ENCODE: Final = "mmformat encode {path} -o {stem}.arrows"
_CONVERT: Final = "mmformat convert {path} -o messages/"
_MATERIALIZE: Final = "mmformat.materialize(inputs) opens videos and sounds; docs/media-pool.md"

_MAGIC: Final = (
    (0, b"\xff\xd8\xff", "a JPEG image", _ENCODE),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", _ENCODE),
    (0, b"GIF8", "a GIF image", _ENCODE),
    (8, b"WEBP", "a WebP image", _ENCODE),
    (0, b"II*\x00", "a TIFF image", _ENCODE),
    (0, b"MM\x00*", "a TIFF image", _ENCODE),
    (0, b"\x80\x02", "a pickle", _CONVERT),
    (0, b"\x80\x03", "a pickle", _CONVERT),
    (0, b"\x80\x04", "a pickle", _CONVERT),
    (0, b"\x80\x05", "a pickle", _CONVERT),
    (0, b"PK\x03\x04", "a zip file, perhaps of torch.save", _CONVERT),
    (0, b"ARROW1", "an Arrow file; a message is an Arrow stream",
     "pyarrow.ipc.open_file({path!r}) reads it; mmformat export writes such files"),
    (0, b"PAR1", "a Parquet file",
     "pyarrow.parquet.read_table({path!r}) reads it; mmformat export writes such files"),
    (4, b"ftyp", "a video or sound", _MATERIALIZE),
    (0, b"\x1aE\xdf\xa3", "a video or sound", _MATERIALIZE),
    (8, b"WAVE", "a sound", _MATERIALIZE),
    (0, b"fLaC", "a sound", _MATERIALIZE),
    (0, b"OggS", "a sound", _MATERIALIZE),
    (0, b"ID3", "a sound", _MATERIALIZE),
    (0, b"\xff\xff\xff\xff", "a message", "mmformat inspect {path}"),
)  # fmt: skip


def recognize(path: Path) -> Recognized | None:
    """Return what a regular file's first bytes say that it is, or None.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".jpg") as photo:
    ...     _ = photo.write(bytes.fromhex("ffd8ffe0")), photo.flush()
    ...     recognize(Path(photo.name)).noun
    'a JPEG image'
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(_HEAD_NBYTES)
    except OSError:
        return None
    for offset, magic, noun, hint in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            shown = str(path)
            return Recognized(noun, hint.format(path=shown, stem=path.stem))
    return None


def missing(path: str | Path) -> MMFormatError:
    """Return the error for a path that is not there; every command says it in the same words."""
    return MMFormatError(f"{path}: no such file or folder")
