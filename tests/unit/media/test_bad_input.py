"""Broken and hostile media give an error of ours with the path, within bounded memory."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmformat as mm
from mmformat.media import materialize
from mmformat.media.audio import WhisperProcessor
from mmformat.media.pool import MaterializePool
from mmformat.media.processors import processor_from_config
from mmformat.media.video_processors import QwenVLVideoProcessor

DATA = Path(__file__).parents[2] / "data"
BAD = DATA / "bad"
IMAGE, VIDEO, AUDIO = mm.Modality.IMAGE, mm.Modality.VIDEO, mm.Modality.AUDIO

PROCESSORS = {
    IMAGE: processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"}),
    VIDEO: QwenVLVideoProcessor(fps=1.0, min_pixels=56 * 56, backend="pil"),
    AUDIO: WhisperProcessor(),
}

# What each file must be refused as, and with which words.
REFUSED = [
    ("empty.jpg", IMAGE, mm.MaterializeError, "as an image"),
    ("truncated.jpg", IMAGE, mm.MaterializeError, "truncated"),
    ("header-only.jpg", IMAGE, mm.MaterializeError, "truncated"),
    ("page.jpg", IMAGE, mm.MaterializeError, "as an image"),
    ("archive.jpg", IMAGE, mm.MaterializeError, "as an image"),
    ("truncated.png", IMAGE, mm.MaterializeError, "truncated"),
    ("strip-1x2000.png", IMAGE, mm.MaterializeError, "aspect ratio"),
    ("bomb-header-50000x50000.png", IMAGE, mm.LimitError, "2500000000 pixels"),
    ("bomb-header-16000x11000.webp", IMAGE, mm.LimitError, "pixels"),
    ("empty.jpg", VIDEO, mm.MaterializeError, "video or audio file"),
    ("page.jpg", VIDEO, mm.MaterializeError, "video or audio file"),
    ("archive.jpg", VIDEO, mm.MaterializeError, "video or audio file"),
    ("playlist.mp4", VIDEO, mm.MaterializeError, "#EXTM3U"),
    ("script.mp4", VIDEO, mm.MaterializeError, "ffconcat"),
    ("truncated.mp4", VIDEO, mm.MaterializeError, "whole file"),
    ("headless.mp4", VIDEO, mm.MaterializeError, "whole file"),
    ("ends-early.mp4", VIDEO, mm.MaterializeError, "the file ends after"),
    ("three-hours.mp4", VIDEO, mm.LimitError, "10,800 s"),
    ("three-hours.avi", VIDEO, mm.LimitError, "10,800 s"),
    ("three-hours.mp4", AUDIO, mm.LimitError, "10,800 s"),
    ("rate-zero.wav", VIDEO, mm.MaterializeError, "whole file"),
    ("empty.jpg", AUDIO, mm.MaterializeError, "video or audio file"),
    ("truncated.ogg", AUDIO, mm.MaterializeError, "whole file"),
    ("rate-zero.wav", AUDIO, mm.MaterializeError, "whole file"),
    ("rate-huge.wav", AUDIO, mm.MaterializeError, "2,147,483,647 Hz"),
    ("channels-zero.wav", AUDIO, mm.MaterializeError, "can be decoded"),
    ("no-samples.wav", AUDIO, mm.MaterializeError, "no samples"),
]
# Odd, and yet what their format allows: Pillow and FFmpeg read them, as they do for transformers.
ACCEPTED = [("dot-1x1.png", IMAGE), ("ends-early.ogg", AUDIO)]

# Pillow warns of sizes over its own threshold before we can look; elsewhere that is a message.
BOMB_WARNING = "ignore::PIL.Image.DecompressionBombWarning"


def request_of(source: mm.Source, modality: mm.Modality) -> mm.MultimodalInputs:
    good = mm.Source(np.zeros((64, 64, 3), np.uint8))
    return mm.MultimodalInputs(
        items=[
            mm.MultimodalDataItem(modality=IMAGE, feature=good),
            mm.MultimodalDataItem(modality=modality, feature=[source]),
        ]
    )


@pytest.fixture(scope="session")
def whole_bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete PNG of 50,000 x 50,000: 303 KB that want 312 MB, or 7.5 GB as RGB."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    head = (BAD / "bomb-header-50000x50000.png").read_bytes()
    body_at = head.index(b"IDAT") - 4
    packer = zlib.compressobj(9)
    rows = bytes(6_251 * 500)
    idat = b"".join(packer.compress(rows) for _ in range(100)) + packer.flush()
    chunk = len(idat).to_bytes(4, "big") + b"IDAT" + idat
    chunk += zlib.crc32(chunk[4:]).to_bytes(4, "big")
    path.write_bytes(head[:body_at] + chunk + head[-12:])
    return path


@pytest.mark.parametrize(
    ("name", "modality", "kind", "words"), REFUSED, ids=[f"{r[0]}-{r[1].value}" for r in REFUSED]
)
@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
@pytest.mark.filterwarnings(BOMB_WARNING)
def test_it_is_refused_with_the_path(
    name: str, modality: mm.Modality, kind: type[mm.MMFormatError], words: str, as_bytes: bool
) -> None:
    source = mm.Source((BAD / name).read_bytes() if as_bytes else BAD / name)
    with pytest.raises(mm.MMFormatError, match=words) as caught:
        materialize(request_of(source, modality), PROCESSORS)
    assert type(caught.value) is kind
    assert caught.value.path == "$.items[1].feature[0]"


OBJECT = re.compile(r"\b0x[0-9a-fA-F]+|<_io|<class|object at|\bname=")


@pytest.mark.parametrize("name", sorted(path.name for path in BAD.iterdir()))
@pytest.mark.parametrize("modality", [IMAGE, VIDEO, AUDIO])
@pytest.mark.parametrize("kind", ["path", "bytes", "file", "base64", "url"])
@pytest.mark.filterwarnings(BOMB_WARNING)
def test_no_error_shows_an_address_or_an_internal_object(
    name: str, modality: mm.Modality, kind: str
) -> None:
    data = (BAD / name).read_bytes()
    made: dict[str, Callable[[], mm.Source]] = {
        "path": lambda: mm.Source(BAD / name),
        "bytes": lambda: mm.Source(data),
        "file": lambda: mm.Source(io.BytesIO(data)),
        "base64": lambda: mm.Source(base64.b64encode(data), kind="base64"),
        "url": lambda: mm.Source("https://host/x", fetcher=lambda _: data),
    }
    try:
        materialize(request_of(made[kind](), modality), PROCESSORS)
    except mm.MMFormatError as error:
        shown = f"{error!s} {error!r} {error.reason} {error.hint}"
        assert OBJECT.search(shown) is None, shown


def test_every_file_is_tested() -> None:
    tested = {row[0] for row in REFUSED} | {row[0] for row in ACCEPTED}
    tested |= {"bomb-header-40000x2000.png", "make_bad.py", "PROVENANCE.md"}
    assert {path.name for path in BAD.iterdir()} == tested


@pytest.mark.parametrize(("name", "modality"), ACCEPTED)
def test_what_is_merely_odd_is_a_value(name: str, modality: mm.Modality) -> None:
    result = materialize(request_of(mm.Source(BAD / name), modality), PROCESSORS)
    assert result.items[1].frozen


@pytest.mark.filterwarnings(BOMB_WARNING)
def test_the_whole_bomb_is_refused(whole_bomb: Path) -> None:
    assert 200_000 < whole_bomb.stat().st_size < 400_000
    with pytest.raises(mm.LimitError):
        materialize(request_of(mm.Source(whole_bomb), IMAGE), PROCESSORS)


def test_our_own_bound_is_below_pillows() -> None:
    source = mm.Source(BAD / "bomb-header-40000x2000.png", max_pixels=16_000_000)
    with pytest.raises(mm.LimitError, match="40,000 x 2,000"):
        materialize(request_of(source, IMAGE), PROCESSORS)


def test_a_header_that_lies_about_three_hours_is_found_out() -> None:
    source = mm.Source(BAD / "three-hours.avi", max_duration_s=4 * 3600)
    with pytest.raises(mm.MaterializeError, match="counts 162,000 frames") as caught:
        materialize(request_of(source, VIDEO), PROCESSORS)
    assert caught.value.code == "video-short"
    assert caught.value.path == "$.items[1].feature[0]"


def test_a_play_list_opens_no_connection() -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"

        def listen() -> None:
            try:
                asked.append(server.accept())
            except TimeoutError:
                return

        thread = threading.Thread(target=listen)
        thread.start()
        data = (BAD / "playlist.mp4").read_bytes().replace(b"http://127.0.0.1:9/a.ts",
                                                           address.encode())  # fmt: skip
        with pytest.raises(mm.MaterializeError):
            materialize(request_of(mm.Source(data), VIDEO), PROCESSORS)
        thread.join()
    assert asked == []


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.filterwarnings(BOMB_WARNING)
def test_a_pool_goes_on_after_each(kind: Any, whole_bomb: Path) -> None:
    rows = [row for row in REFUSED if row[1] is IMAGE]
    requests = [request_of(mm.Source(BAD / row[0]), IMAGE) for row in rows]
    requests.append(request_of(mm.Source(whole_bomb), IMAGE))
    requests.append(request_of(mm.Source(BAD / "dot-1x1.png"), IMAGE))
    with MaterializePool(2, kind, processor=PROCESSORS) as pool:
        *failed, last = pool.map(requests, errors="return")
        assert pool.restarts == 0
    assert isinstance(last, mm.MultimodalInputs)
    assert [type(error) for error in failed] == [*(row[2] for row in rows), mm.LimitError]
    assert {error.path for error in failed if isinstance(error, mm.MMFormatError)} == {
        "$.items[1].feature[0]"
    }


MEASURE = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import mmformat as mm
from mmformat.media import materialize
from tests.unit.media.test_bad_input import BAD, PROCESSORS, REFUSED, request_of, DATA

def peak_nbytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

good = {"IMAGE": "photos/china-640x427.jpg", "VIDEO": "video/chelsea-176x144.avi",
        "AUDIO": "audio/complete-stereo.ogg"}
for modality, name in good.items():  # whatever a first use loads and keeps
    materialize(request_of(mm.Source(DATA / name), mm.Modality(modality)), PROCESSORS)
before = peak_nbytes()
sources = [(mm.Source(BAD / row[0]), row[1]) for row in REFUSED]
sources.append((mm.Source(sys.argv[1]), mm.Modality.IMAGE))
sources.append((mm.Source(BAD / "three-hours.avi", max_duration_s=1e5), mm.Modality.VIDEO))
refused = 0
for source, modality in sources:
    try:
        materialize(request_of(source, modality), PROCESSORS)
    except mm.MMFormatError:
        refused += 1
print(json.dumps({"before": before, "grown": peak_nbytes() - before, "refused": refused}))
"""


def test_memory_stays_bounded(whole_bomb: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(whole_bomb)],
        capture_output=True,
        text=True,
        check=True,
        cwd=DATA.parents[1],
    )
    measured = json.loads(done.stdout)
    assert measured["refused"] == len(REFUSED) + 2
    # The bomb alone would take 2.5 GB. What the good media took is the yardstick.
    assert measured["grown"] < 48 * 2**20


GOOD = [
    ("photos/coffee-palette.png", IMAGE),
    ("photos/china-exif-rotated.jpg", IMAGE),
    ("video/chelsea-176x144.avi", VIDEO),
    ("video/chelsea-176x144.webm", VIDEO),
    ("audio/complete-stereo.ogg", AUDIO),
]


@pytest.mark.parametrize(("name", "modality"), GOOD)
@pytest.mark.filterwarnings(BOMB_WARNING)
def test_any_damage_gives_a_value_or_an_error_of_ours(name: str, modality: mm.Modality) -> None:
    data = np.frombuffer((DATA / name).read_bytes(), np.uint8)
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(25):
        damaged = data[: random.integers(1, len(data) + 1)].copy()
        places = random.integers(0, len(damaged), random.integers(0, 12))
        # headers matter more than bodies
        places = np.where(random.random(len(places)) < 0.5, places % min(400, len(damaged)), places)
        damaged[places] = random.integers(0, 256, len(places))
        source = mm.Source(damaged.tobytes(), max_pixels=4_000_000)
        try:
            result = materialize(request_of(source, modality), PROCESSORS)
        except mm.MMFormatError as error:
            refused += 1
            assert str(error.path).startswith("$.items[1].feature[0]")
        else:
            assert result.items[1].frozen
    assert refused > 0
