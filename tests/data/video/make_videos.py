"""Make the videos of this folder: pans and zooms over two photographs of the package. Run with PyAV 18.1.0."""
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def frames(name, count, height, width, first, last):
    image = Image.open(ROOT / "benchmarks" / "photos" / name).convert("RGB")
    for index in range(count):
        part = index / (count - 1)
        zoom = first + (last - first) * part
        crop_width = image.width * zoom
        crop_height = crop_width * height / width
        if crop_height > image.height:
            crop_height = image.height
            crop_width = crop_height * width / height
        x, y = (image.width - crop_width) * part, (image.height - crop_height) * (1 - part)
        box = (x, y, x + crop_width, y + crop_height)
        yield np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))


def write(name, container, codec, rate, parts, height, width, options, gop):
    with av.open(str(HERE / name), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options, stream.gop_size, stream.thread_count = options, gop, 1
        for part in parts:
            for pixels in frames(*part):
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


write("coffee-rocket-320x240.mp4", "mp4", "libx264", Fraction(30000, 1001),
      [("coffee-600x400.jpg", 75, 240, 320, 0.9, 0.35), ("rocket-640x427.jpg", 75, 240, 320, 0.4, 0.95)],
      240, 320, {"crf": "30", "preset": "slow"}, 50)
write("chelsea-176x144.webm", "webm", "libvpx", 25,
      [("chelsea-360x240.png", 40, 144, 176, 0.95, 0.4)], 144, 176, {"crf": "35", "b": "150k"}, 20)
write("chelsea-176x144.avi", "avi", "mpeg4", 15,
      [("chelsea-360x240.png", 30, 144, 176, 0.4, 0.95)], 144, 176, {"b": "150k"}, 12)
