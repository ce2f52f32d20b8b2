"""Make the broken media of this folder from the good ones beside it; what cannot be small is made by the tests."""
import io
import struct
import zipfile
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image

HERE = Path(__file__).parent
DATA = HERE.parent
COFFEE = (DATA.parents[1] / "benchmarks" / "photos" / "coffee-600x400.jpg").read_bytes()
CLIP = (DATA / "video" / "coffee-rocket-320x240.mp4").read_bytes()
CHIME = (DATA / "audio" / "complete-stereo.ogg").read_bytes()


def write(name, data):
    (HERE / name).write_bytes(data)


def png(width, height, idat):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


# images
write("empty.jpg", b"")
write("truncated.jpg", COFFEE[:12_000])
write("header-only.jpg", COFFEE[:400])
write("page.jpg", b"<!doctype html>\n<html><head><title>404</title></head><body>Not found</body></html>\n")
archive = io.BytesIO()
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr(zipfile.ZipInfo("photo.jpg", (2026, 1, 1, 0, 0, 0)), b"\xff\xd8\xff" * 100)
write("archive.jpg", archive.getvalue())
# A header alone is enough to ask for 2.5 gigapixels; the tests also make the whole bomb.
write("bomb-header-50000x50000.png", png(50_000, 50_000, zlib.compress(b"\0" * 6_251 * 20)))
write("bomb-header-40000x2000.png", png(40_000, 2_000, zlib.compress(b"\0" * 5_001 * 20)))
size = (16_000 - 1) | (11_000 - 1) << 14
write("bomb-header-16000x11000.webp", b"RIFF" + struct.pack("<I", 60) + b"WEBPVP8L" + struct.pack("<I", 47) + b"\x2f"
      + struct.pack("<I", size) + b"\0" * 43)
write("truncated.png", png(64, 64, zlib.compress(b"\0" * 9 * 64)[:10]))
strip = io.BytesIO()
Image.fromarray(np.arange(2000, dtype=np.uint8)[:, None] // 8).save(strip, "PNG")
write("strip-1x2000.png", strip.getvalue())
dot = io.BytesIO()
Image.new("RGB", (1, 1), (200, 10, 30)).save(dot, "PNG")
write("dot-1x1.png", dot.getvalue())

# video
write("truncated.mp4", CLIP[:30_000])
write("headless.mp4", CLIP[:36] + b"\0" * 4_000)
write("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
write("script.mp4", b"ffconcat version 1.0\nfile 'coffee-rocket-320x240.mp4'\n")
# The chelsea clip, whose header says 162,000 frames at 15 a second: three hours.
clip = bytearray((DATA / "video" / "chelsea-176x144.avi").read_bytes())
avih, strh = clip.index(b"avih") + 8, clip.index(b"strh") + 8
clip[avih + 16 : avih + 20] = clip[strh + 32 : strh + 36] = struct.pack("<I", 162_000)
write("three-hours.avi", bytes(clip[: len(clip) // 3]))
# An index at the front, and half of what it points to.
with av.open(str(DATA / "video" / "coffee-rocket-320x240.mp4")) as source, av.open(
    str(HERE / "ends-early.mp4"), "w", options={"movflags": "faststart"}
) as out:
    stream = out.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
        if packet.dts is not None:
            packet.stream = stream
            out.mux(packet)
write("ends-early.mp4", (HERE / "ends-early.mp4").read_bytes()[:20_000])
# Two frames of one pixel's worth, three hours apart.
with av.open(str(HERE / "three-hours.mp4"), "w") as out:
    stream = out.add_stream("libx264", rate=25)
    stream.width = stream.height = 16
    stream.pix_fmt, stream.thread_count = "yuv420p", 1
    for pts in (0, 3 * 3600 * 25):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), pts % 200, np.uint8), format="rgb24")
        frame.pts = pts
        for packet in stream.encode(frame):
            out.mux(packet)
    for packet in stream.encode():
        out.mux(packet)

# sound
write("truncated.ogg", CHIME[:3_000])
# One Vorbis page too few is not seen by a decoder: the sound ends early, and that is a value.
write("ends-early.ogg", CHIME[:12_000])


def wav(rate, channels, nbytes, said):
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + said, b"WAVE", b"fmt ", 16, 1, channels, rate,
                       rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16, b"data", said)
    return head + b"\1\0" * (nbytes // 2)


write("rate-zero.wav", wav(0, 1, 400, 400))
write("rate-huge.wav", wav(2**31 - 1, 1, 400, 400))
write("channels-zero.wav", wav(16_000, 0, 400, 400))
write("no-samples.wav", wav(16_000, 1, 0, 2**32 - 40))
