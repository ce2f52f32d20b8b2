"""Write the pickles of this folder with the engines' own class definitions, cut out of their wheels.

    pip download --no-deps sglang==VERSION -d WHEELS   (and vllm==0.33.0)
    python make.py WHEELS

Only the classes named below are executed, in modules of their own names, so that a pickle has the
class paths, the enum values and the fields that the released code gives it.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import pickle
import sys
import types
import typing
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
BATCH = "sglang.srt.managers.schedule_batch"
SGLANG = ("0.4.0", "0.4.4", "0.4.6", "0.4.9", "0.5.0rc2", "0.5.7", "0.5.9", "0.5.10", "0.5.12",
          "0.5.16", "0.5.20")  # fmt: skip
NAMES = ("Modality", "MultimodalInputFormat", "MultimodalDataItem", "MultimodalInputs",
         "MultimodalProcessorOutput", "ImageInputs")  # fmt: skip


def module_of(wheel: Path, module: str, names: tuple[str, ...]) -> types.ModuleType:
    """Return a module with the wheel's own definitions of ``names``; methods are dropped."""
    import msgspec
    import numpy as np
    import torch

    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read(module.replace(".", "/") + ".py"))
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in names:
            # The fields make the pickle; methods would need the rest of the engine.
            node.body = [part for part in node.body if not isinstance(part, ast.FunctionDef)] or [
                ast.Pass()
            ]
            body.append(node)
    made = types.ModuleType(module)
    made.__dict__.update({name: getattr(typing, name) for name in typing.__all__})
    made.__dict__["MultimodalDataValue"] = typing.Any
    made.__dict__.update(
        dataclasses=dataclasses, dataclass=dataclasses.dataclass, Enum=enum.Enum, auto=enum.auto,
        msgspec=msgspec, torch=torch, np=np, ABC=object, UserDict=__import__("collections").UserDict,
        array=__import__("array").array, 
    )  # fmt: skip
    parts = module.split(".")
    for end in range(1, len(parts)):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(parts[end - 1]))
    sys.modules[module] = made
    code = compile(ast.Module([_future(), *body], []), module, "exec")
    exec(code, made.__dict__)
    for value in list(made.__dict__.values()):
        if isinstance(value, type) and value.__module__ == module:
            value.__qualname__ = value.__name__
    return made


def _future() -> ast.stmt:
    return ast.parse("from __future__ import annotations").body[0]


def sglang(wheel: Path, version: str) -> None:
    """Write inputs with one item of each modality, and the dict form."""
    import torch

    made = module_of(wheel, BATCH, NAMES)
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    if hasattr(made, "ImageInputs"):
        fields = {"pixel_values": tensor, "image_hashes": [7], "image_sizes": [(4, 5)],
                  "image_offsets": [(1, 4)], "modalities": ["image"],
                  "image_grid_thws": [(1, 2, 3)]}  # fmt: skip
        inputs = made.ImageInputs(**{k: v for k, v in fields.items()})
        _write(f"sglang-{version}-inputs", inputs, 4)
        _write(f"sglang-{version}-dict", fields, 4)
        return
    names = [field.name for field in _fields(made.MultimodalDataItem)]
    items = []
    for member in made.Modality:
        own = {"modality": member, "hash": member.value * 1_000 + 2**63, "pad_value": member.value}
        if "feature" in names:
            own |= {"feature": tensor * member.value, "offsets": [(member.value, 9)],
                    "model_specific_data": {"image_grid_thw": torch.tensor([[1, 2, 3]])}}  # fmt: skip
        elif member.name == "AUDIO":
            own |= {"audio_features": tensor * member.value, "audio_feature_lens": [torch.tensor(3)]}
        else:
            own |= {"pixel_values": tensor * member.value, "image_offsets": [(member.value, 9)],
                    "image_sizes": (4, 5)}  # fmt: skip
        if "format" in names:
            own["format"] = made.MultimodalInputFormat.PROCESSOR_OUTPUT
        items.append(made.MultimodalDataItem(**own))
    kind = getattr(made, "MultimodalProcessorOutput", None)
    _write(f"sglang-{version}-inputs", made.MultimodalInputs(mm_items=items, im_token_id=11), 4)
    if kind is not None:
        _write(f"sglang-{version}-output", kind(mm_items=items, im_token_id=11), 5)
    _write(f"sglang-{version}-dict", {"mm_items": items, "im_token_id": 11}, 2)


def _fields(cls: type) -> tuple[typing.Any, ...]:
    if dataclasses.is_dataclass(cls):
        return dataclasses.fields(cls)
    import msgspec

    return msgspec.structs.fields(cls)


def vllm(wheel: Path) -> None:
    """Write vLLM's items, features and ranges."""
    import torch

    names = ("PlaceholderRange", "MultiModalFeatureSpec", "MultiModalFieldElem",
             "BaseMultiModalField", "MultiModalBatchedField", "MultiModalFlatField",
             "MultiModalSharedField")  # fmt: skip
    made = module_of(wheel, "vllm.multimodal.inputs", names)
    collections = __import__("collections")
    for name in ("MultiModalKwargsItem", "MultiModalKwargsItems"):
        # Generic aliases of torch types stand among their bases; the pickle has the class alone.
        cls = type(name, (collections.UserDict,), {"__module__": "vllm.multimodal.inputs"})
        setattr(made, name, cls)
    elem, item = made.MultiModalFieldElem, made.MultiModalKwargsItem
    flat = made.MultiModalFlatField(slices=[slice(0, 2), slice(2, 5)], dim=0)
    batched = made.MultiModalBatchedField(keep_on_cpu=True)
    image = item({"pixel_values": elem(torch.arange(6.0).reshape(2, 3), flat),
                  "image_grid_thw": elem(torch.tensor([1, 2, 3]), batched)})  # fmt: skip
    audio = item({"input_audio_features": elem(torch.ones(2, 2).bfloat16(),
                                               made.MultiModalSharedField(batch_size=2))})  # fmt: skip
    place = made.PlaceholderRange(offset=4, length=3, is_embed=torch.tensor([True, False, True]))
    spec = made.MultiModalFeatureSpec(image, "image", "id-1", place, "hash-1")
    cached = made.MultiModalFeatureSpec(None, "video", "id-2", made.PlaceholderRange(9, 1), "id-2")
    _write("vllm-0.33.0-items", made.MultiModalKwargsItems({"image": [image, image],
                                                            "audio": [audio]}), 4)  # fmt: skip
    _write("vllm-0.33.0-item", image, 2)
    _write("vllm-0.33.0-features", [spec, cached], 5)
    _write("vllm-0.33.0-range", place, 4)


def _write(name: str, value: object, protocol: int) -> None:
    (HERE / f"{name}.p{protocol}.pkl").write_bytes(pickle.dumps(value, protocol))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for version in SGLANG:
        sglang(next(folder.glob(f"sglang-{version}-*.whl")), version)
    for found in folder.glob("vllm-0.33.0-*.whl"):
        vllm(found)
