"""vLLM 0.33: its multimodal classes in and out, and an encoder and decoder for its sockets."""

from mmformat.adapters.vllm.restore import from_mmformat
from mmformat.adapters.vllm.serial import mm_decoder, mm_encoder
from mmformat.adapters.vllm.shared import attach, shared_item
from mmformat.adapters.vllm.take import to_mmformat

__all__ = [
    "attach",
    "from_mmformat",
    "mm_decoder",
    "mm_encoder",
    "shared_item",
    "to_mmformat",
]
