"""Convert: an old pickle into multimodal inputs, executing nothing of it."""

from mmformat.legacy.allowlist import ALLOWED
from mmformat.legacy.convert import Conversion, convert, convert_all
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.report import ConversionReport, Note

__all__ = [
    "ALLOWED",
    "Conversion",
    "ConversionReport",
    "Note",
    "PickleLimits",
    "convert",
    "convert_all",
]
