"""What travels: items, inputs, tensors, messages, and the bounds on them."""

from mmformat.model.compression import Compression
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import InputFormat, Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage
from mmformat.model.source import Source
from mmformat.model.tensors import TensorSpec
from mmformat.model.values import Feature, TensorValue

__all__ = [
    "Compression",
    "DictionaryTensor",
    "EncodedMessage",
    "Feature",
    "InputFormat",
    "Limits",
    "Modality",
    "MultimodalDataItem",
    "MultimodalInputs",
    "Source",
    "TensorSpec",
    "TensorValue",
]
