"""Encode inputs into messages, and decode messages into inputs."""

from mmformat.codec.decode import decode
from mmformat.codec.encode import encode

__all__ = ["decode", "encode"]
