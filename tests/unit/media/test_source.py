"""A source knows what kind of medium it holds, and never leaves its process undecoded."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmformat import ModelError, Source


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8", "bytes"),
        (bytearray(b"\xff\xd8"), "bytes"),
        (memoryview(b"\xff\xd8"), "bytes"),
        ("data:image/png;base64,iVBO", "data_url"),
        ("DATA:image/png;base64,iVBO", "data_url"),
        ("https://example.org/a.jpg", "url"),
        ("HTTP://example.org/a.jpg", "url"),
        ("/9j/4AAQSkZJRg==", "base64"),
        ("iVBORw0KGgo\niVBO", "base64"),
        ("photos/cat.jpg", "path"),
        ("", "path"),
        (Path("photos"), "path"),
        (io.BytesIO(b""), "file"),
        (Image.new("RGB", (2, 3)), "image"),
        (np.zeros((2, 3), np.uint8), "array"),
    ],
)
def test_the_kind_is_told_from_the_data(data: object, kind: str) -> None:
    assert Source(data).kind == kind


def test_a_named_kind_wins() -> None:
    assert Source("photo", kind="path").kind == "path"
    assert Source(object(), kind="medium").kind == "medium"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (3, None),
        (["a"], None),
        ("file:///etc/passwd", None),
        ("ftp://example.org/a", None),
        (b"\xff", "path"),
        ("/etc/passwd", "data_url"),
        ("/etc/passwd", "url"),
        (b"\xff", "image"),
        ("a.jpg", "picture"),
    ],
)
def test_a_kind_that_the_data_cannot_be_is_refused(data: object, kind: str | None) -> None:
    with pytest.raises(ModelError):
        Source(data, kind=kind)


@pytest.mark.parametrize("bound", [0, -1, 1.5, True])
def test_bounds_are_positive_ints(bound: int) -> None:
    with pytest.raises(ModelError, match=r"\$\.max_pixels"):
        Source(b"", max_pixels=bound)
    with pytest.raises(ModelError, match=r"\$\.max_nbytes"):
        Source(b"", max_nbytes=bound)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_source_is_never_pickled(protocol: int) -> None:
    with pytest.raises(ModelError) as caught:
        pickle.dumps(Source(b"\xff\xd8"), protocol)
    assert caught.value.code == "not-materialized"


def test_a_source_is_never_copied_behind_the_back() -> None:
    with pytest.raises(ModelError):
        copy.deepcopy({"feature": Source(b"\xff\xd8")})


def test_the_repr_shows_no_content() -> None:
    assert repr(Source(b"secret")) == "Source(<6 bytes>)"
    assert repr(Source(Path("a/b.png"))) == "Source('a/b.png')"
    assert repr(Source(io.BytesIO())) == "Source(<file>)"
    assert "secret" not in repr(Source("secret" * 20))
    assert repr(Source(np.zeros((4, 5), np.uint8))) == "Source(<uint8 (4, 5)>)"
