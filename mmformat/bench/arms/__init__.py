"""The ways to carry a request's tensors that a measurement compares, each in its own module."""

from mmformat.bench.arms.arm import Arm, Frames
from mmformat.bench.arms.catalogue import ARMS, arm_class, make_arm, why_missing

__all__ = ["ARMS", "Arm", "Frames", "arm_class", "make_arm", "why_missing"]
