"""Write expected-resample.npz with torchaudio's own two functions, read out of its source.

torchaudio is not among the tests' packages, and its wheel does not load beside torch for the CPU; the two functions that
do the work need torch alone. Give the path of torchaudio/functional/functional.py (2.11.0).
"""
import ast
import math
import sys
import warnings
from pathlib import Path
from typing import Optional

import numpy as np
import soundfile
import torch

HERE = Path(__file__).parent
RATES = [(44100, 16000), (22050, 16000), (48000, 16000), (8000, 16000), (16001, 16000), (16000, 24000)]
names = {"torch": torch, "math": math, "warnings": warnings, "Optional": Optional, "Tensor": torch.Tensor,
         "_CPU": torch.device("cpu")}
for node in ast.walk(ast.parse(Path(sys.argv[1]).read_text())):
    if isinstance(node, ast.FunctionDef) and node.name in ("_get_sinc_resample_kernel", "_apply_sinc_resample_kernel"):
        exec(compile(ast.Module([node], []), sys.argv[1], "exec"), names)
samples, _ = soundfile.read(HERE / "speech-22050-mono.flac", dtype="float32")
samples = samples[20_000:21_000]
found = {}
for before, after in RATES:
    divisor = math.gcd(before, after)
    kernel, width = names["_get_sinc_resample_kernel"](before, after, divisor)
    made = names["_apply_sinc_resample_kernel"](torch.from_numpy(samples), before, after, divisor, kernel, width)
    found[f"{before}-{after}"] = made.numpy()
np.savez(HERE / "expected-resample.npz", **found)
