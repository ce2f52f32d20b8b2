"""Materialize: turn undecoded media into the tensors that a model's encoder reads."""

from mmformat.media.lazy import register_lazy
from mmformat.media.load import load_image
from mmformat.media.materialize import materialize, materialize_async

__all__ = ["load_image", "materialize", "materialize_async", "register_lazy"]
