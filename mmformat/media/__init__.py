"""Materialize: turn undecoded media into the tensors that a model's encoder reads."""

from mmformat.media.audio import Audio, load_audio
from mmformat.media.lazy import register_lazy
from mmformat.media.materialize import materialize, materialize_async
from mmformat.media.sources import load_image
from mmformat.media.video import Video, open_video

__all__ = [
    "Audio",
    "Video",
    "load_audio",
    "load_image",
    "materialize",
    "materialize_async",
    "open_video",
    "register_lazy",
]
