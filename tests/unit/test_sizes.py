"""A size is read as people write it, and what is no size is refused in our words."""

from __future__ import annotations

import pytest

from mmformat import ModelError
from mmformat._sizes import parse_nbytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1),
        (7, 7),
        ("1_000", 1000),
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        ("8G", 8 * 2**30),
        ("8g", 8 * 2**30),
        ("8GB", 8 * 10**9),
        ("25.8MB", 25_800_000),
        ("0.5KiB", 512),
        ("2TiB", 2**41),
        ("512B", 512),
    ],
)
def test_sizes(text: str | int, nbytes: int) -> None:
    assert parse_nbytes(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "0", "1e9", "8XiB", "nan", "8GiB8", "9" * 30, 1.5, True, None, 0, -1]
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ModelError, match="size must be") as caught:
        parse_nbytes(text, path="$.nbytes")  # type: ignore[arg-type]
    assert caught.value.path == "$.nbytes"
