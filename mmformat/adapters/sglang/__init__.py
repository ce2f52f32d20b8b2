"""SGLang 0.5.5 to 0.5.23: its multimodal classes in and out, and a handle in their place."""

from mmformat.adapters.sglang.installation import Installed, install
from mmformat.adapters.sglang.restore import from_mmformat
from mmformat.adapters.sglang.take import to_mmformat

__all__ = ["Installed", "from_mmformat", "install", "to_mmformat"]
