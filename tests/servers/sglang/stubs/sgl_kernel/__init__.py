"""Import-time stand-in for sgl_kernel, whose wheel needs a GPU or AMX.

Modules of SGLang look these operators up while they are imported; calling one raises.
``convert_weight_packed`` is left out, so that SGLang uses the native forward of every layer.
"""

import torch

_LIBRARY = torch.library.Library("sgl_kernel", "FRAGMENT")
for _name in (
    "fused_sigmoid_mul_cpu",
    "fused_qk_gemma_rmsnorm_cpu",
    "fused_qk_gemma_rmsnorm_with_gate_cpu",
    "fused_qkvzba_split_reshape_cat_contiguous_cpu",
    "fused_moe_router_cpu",
    "rmsnorm_cpu",
    "fused_dual_residual_rmsnorm_cpu",
):
    _LIBRARY.define(f"{_name}(Tensor x) -> Tensor")


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*_args: object, **_options: object) -> None:
        raise NotImplementedError(f"sgl_kernel.{name} is a stand-in without a kernel")

    return absent
