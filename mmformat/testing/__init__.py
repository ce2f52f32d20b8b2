"""What an implementation is proven with: golden vectors, generated inputs, equality bit for bit."""

from mmformat.testing.corpus import Vector, golden_vectors
from mmformat.testing.equality import assert_inputs_equal

__all__ = ["Vector", "assert_inputs_equal", "golden_vectors"]
