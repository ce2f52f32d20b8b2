"""Which names a pickle may mention, exactly, what they are read as, and why each is here."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ALLOWED", "Entry"]


class Entry(NamedTuple):
    """Say what a name is read as; no entry imports or calls the thing that it names."""

    kind: str
    reason: str


_SCHEDULE = "sglang.srt.managers.schedule_batch"
_IO = "sglang.srt.managers.io_struct"
_VLLM = "vllm.multimodal.inputs"

_STORAGES: Final = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_DTYPES: Final = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "complex64", "complex128",
)  # fmt: skip


def _table() -> dict[tuple[str, str], Entry]:
    rows: dict[tuple[str, str], Entry] = {}

    def add(module: str, name: str, kind: str, reason: str) -> None:
        rows[module, name] = Entry(kind, reason)

    # Values of the language.
    add(
        "_codecs",
        "encode",
        "encode-latin1",
        "protocols 0-2 write bytes as text; only latin1 is read",
    )
    add(
        "collections",
        "OrderedDict",
        "ordered-dict",
        "every torch tensor carries one (its empty backward hooks), and so do state dicts",
    )
    add("collections", "defaultdict", "default-dict", "grouped media; its factory is not called")
    for module in ("builtins", "__builtin__"):
        add(module, "set", "set", "protocols 0-3 write sets as a call (stop_token_ids)")
        add(module, "frozenset", "frozenset", "as set")
        add(module, "list", "type-list", "the factory of a defaultdict, or an empty list")
        add(module, "dict", "type-dict", "the factory of a defaultdict, or an empty dict")
        add(module, "int", "type-only", "the factory of a defaultdict; it is never called")
        add(module, "object", "object", "the base that copyreg._reconstructor names")
        add(module, "bytes", "bytes", "protocols 0-2 write the empty bytes as a call")
        add(module, "bytearray", "bytearray", "numpy buffers and bytearrays before protocol 5")
        add(module, "complex", "complex", "complex scalars")
        add(module, "slice", "slice", "vLLM's MultiModalFlatField.slices")
    for module in ("copyreg", "copy_reg"):
        add(
            module,
            "_reconstructor",
            "reconstructor",
            "protocols 0 and 1 write each plain object so; only allow-listed classes with base "
            "object are made",
        )
    add("array", "array", "array", "token ids of 0.5.2x requests (protocols 0-2)")
    add("array", "_array_reconstructor", "array-reconstructor", "the same from protocol 3 on")

    # numpy.
    for package in ("numpy._core", "numpy.core"):
        add(f"{package}.multiarray", "_reconstruct", "numpy-reconstruct", "an array, state follows")
        add(f"{package}.multiarray", "scalar", "numpy-scalar", "a numpy scalar (audio_lens)")
        add(f"{package}.numeric", "_frombuffer", "numpy-frombuffer", "an array in protocol 5")
    add("numpy", "dtype", "numpy-dtype", "the element type of an array")
    add("numpy", "ndarray", "numpy-ndarray", "the class that _reconstruct names")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
        add("ml_dtypes", name, "ml-dtype", "the element type of an array of ml_dtypes")

    # torch.
    add("torch._utils", "_rebuild_tensor", "torch-tensor-v1", "tensors of old torch.save files")
    add("torch._utils", "_rebuild_tensor_v2", "torch-tensor-v2", "every torch tensor")
    add(
        "torch._utils",
        "_rebuild_tensor_v3",
        "torch-tensor-v3",
        "float8 and uint16/32/64 tensors; torch 2.13 cannot load its own",
    )
    add("torch._utils", "_rebuild_parameter", "torch-parameter", "parameters in torch.save files")
    add("torch._utils", "_rebuild_parameter_with_state", "torch-parameter", "as above, attributes")
    add(
        "torch._tensor",
        "_rebuild_from_type_v2",
        "torch-from-type",
        "tensor subclasses and tensors with attributes (TransportProxyTensor)",
    )
    add(
        "torch.storage",
        "_load_from_bytes",
        "torch-load-bytes",
        "a nested torch.save stream; our own reader parses it",
    )
    for name, dtype in _STORAGES.items():
        add("torch", name, f"torch-storage:{dtype}", "the class of a storage in a torch stream")
    for module in ("torch.storage", "torch"):
        add(module, "UntypedStorage", "torch-storage:", "a storage without dtype")
    for name in _DTYPES:
        add("torch", name, "torch-dtype", "an element type: an argument of _rebuild_tensor_v3")
    add("torch", "Size", "torch-size", "a shape; a tuple of ints")
    add("torch", "device", "torch-device", "a device; kept as its text")
    add("torch", "Tensor", "torch-class", "the class that _rebuild_from_type_v2 names")
    add("torch.nn.parameter", "Parameter", "torch-class", "as torch.Tensor")
    add("torch.nn.parameter", "Buffer", "torch-class", "as torch.Tensor")

    # SGLang.
    add("msgspec._utils", "rebuild", "msgspec-rebuild", "msgspec structs: a class and its fields")
    add(_SCHEDULE, "MultimodalInputs", "struct", "what this library converts")
    add(_SCHEDULE, "MultimodalProcessorOutput", "struct", "the same before padding, 0.5.10 on")
    add(_SCHEDULE, "MultimodalDataItem", "struct", "one medium")
    add(_SCHEDULE, "ImageInputs", "struct", "the same in 0.4.0 to 0.4.4")
    add(_SCHEDULE, "Modality", "enum", "the kind of medium up to 0.5.20")
    add(_SCHEDULE, "MultimodalInputFormat", "enum", "the stage of a feature up to 0.5.20")
    add("sglang.srt.multimodal.modality", "Modality", "enum", "the kind of medium, 0.5.23")
    add("sglang.srt.multimodal.modality", "MultimodalInputFormat", "enum", "as above")
    add(
        "sglang.srt.managers.mm_utils",
        "TransportProxyTensor",
        "torch-class",
        "a tensor subclass; its bytes are in the pickle by the default transport",
    )
    add(
        "sglang.srt.managers.mm_utils",
        "ShmPointerMMData",
        "struct",
        "read so that its refusal can say what is missing: the segment is gone",
    )
    for name in ("TokenizedGenerateReqInput", "TokenizedEmbeddingReqInput"):
        add(_IO, name, "struct", "a request; its media are kept, the rest is listed as dropped")
        add(_IO, f"Batch{name}", "struct", "several requests")
    add(_IO, "SessionParams", "struct", "part of a request; dropped")
    add(_IO, "PickleWrapper", "pickle-wrapper", "a pickle within a request of 0.5.16 to 0.5.23")
    add("sglang.srt.sampling.sampling_params", "SamplingParams", "struct", "as SessionParams")
    for name in ("APIServerReqTimeStats", "DPControllerReqTimeStats"):
        add("sglang.srt.observability.req_time_stats", name, "struct", "as SessionParams")
    add("sglang.srt.observability.trace", "TraceNullContext", "struct", "as SessionParams")
    add("sglang.srt.disaggregation.utils", "DisaggregationMode", "enum", "as SessionParams")

    # vLLM.
    for name in ("MultiModalKwargs", "MultiModalKwargsItem", "MultiModalKwargsItems"):
        add(_VLLM, name, "struct", "what this library converts")
    add(_VLLM, "MultiModalFeatureSpec", "struct", "one medium with its place and its hashes")
    add(_VLLM, "MultiModalFieldElem", "struct", "one named tensor of a medium")
    add(_VLLM, "PlaceholderRange", "struct", "where the tokens of a medium lie")
    for name in ("MultiModalBatchedField", "MultiModalFlatField", "MultiModalSharedField"):
        add(_VLLM, name, "struct", "how a field is batched; kept as a note of the report")

    # Others whose pickles hold media.
    for name in (
        "feature_extraction_utils.BatchFeature",
        "image_processing_base.BatchFeature",
        "tokenization_utils_base.BatchEncoding",
    ):
        module, _, cls = name.rpartition(".")
        add(f"transformers.{module}", cls, "struct", "a processor's output: a dict of tensors")
    add("PIL.Image", "Image", "struct", "an image: mode, size and pixels are in its state")
    for module, cls in (
        ("PngImagePlugin", "PngImageFile"),
        ("JpegImagePlugin", "JpegImageFile"),
        ("WebPImagePlugin", "WebPImageFile"),
        ("BmpImagePlugin", "BmpImageFile"),
        ("GifImagePlugin", "GifImageFile"),
        ("TiffImagePlugin", "TiffImageFile"),
        ("MpoImagePlugin", "MpoImageFile"),
    ):
        add(f"PIL.{module}", cls, "struct", "as PIL.Image.Image, opened from a file")
    return rows


ALLOWED: Final[dict[tuple[str, str], Entry]] = _table()
"""Module and name to what it is read as; nothing is matched by prefix or pattern."""
