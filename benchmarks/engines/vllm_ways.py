"""The ways that a request's media go through vLLM, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QUEUES", "WAYS", "Way"]

QUEUES = {
    "queue": {"max_chunk_bytes": 16 * 2**20},  # VLLM_MQ_MAX_CHUNK_BYTES_MB's default
    "arena": {"max_chunk_bytes": 16 * 2**20, "enable_shm_tensor_arena": True},
    "large": {"max_chunk_bytes": 256 * 2**20},
}
"""What vLLM's executor gives to its MessageQueue, by flag."""


@dataclass(frozen=True)
class Way:
    """Name a way.

    Parameters
    ----------
    name : str
        In the results.
    part : {"one hop", "whole way"}
        From the process that has the tensors straight to the workers; or from the API server
        through the engine core.
    channel : str
        Which of ``QUEUES`` the workers read, or "zmq".
    payload : {"plain", "dictionary"}
        What the producer has.
    side : {"vllm", "ours"}
        Whose encoder and decoder.
    cache : {"", "miss", "hit"}
        vLLM's shm processor cache.
    there : bool
        Whether the content is the same each time.
    """

    name: str
    part: str
    channel: str
    payload: str = "plain"
    side: str = "vllm"
    cache: str = ""
    there: bool = False

    @property
    def key(self) -> str:
        return f"{self.part}: {self.name}"


WAYS = {
    way.key: way
    for way in (
        Way("MsgpackEncoder, a socket to each", "one hop", "zmq"),
        Way("MessageQueue", "one hop", "queue"),
        Way("MessageQueue, shm tensor arena", "one hop", "arena"),
        Way("mmformat, plain", "one hop", "queue", side="ours"),
        Way("mmformat, dictionary", "one hop", "queue", "dictionary", side="ours"),
        Way("mmformat, content already there", "one hop", "queue", side="ours", there=True),
        Way("as shipped", "whole way", "queue"),
        Way("VLLM_MQ_MAX_CHUNK_BYTES_MB=256", "whole way", "large"),
        Way("--enable-shm-tensor-arena", "whole way", "arena"),
        Way("--mm-processor-cache-type shm, miss", "whole way", "queue", cache="miss"),
        Way("--mm-processor-cache-type shm, hit", "whole way", "queue", cache="hit", there=True),
        Way("mmformat, plain", "whole way", "queue", side="ours"),
        Way("mmformat, dictionary", "whole way", "queue", "dictionary", side="ours"),
        Way("mmformat, content already there", "whole way", "queue", side="ours", there=True),
    )
}
"""The last way of each part that is no miss or hit of a cache is ours."""
