"""Move messages between hosts over Arrow Flight: once over the network, once per host."""

from mmformat.net.local import MirrorClient, MirrorServer
from mmformat.net.mirror import Mirror
from mmformat.net.process_memory import bound_memory
from mmformat.net.publisher import Publisher
from mmformat.net.remote_handle import RemoteHandle
from mmformat.net.tls import TLS

__all__ = [
    "TLS",
    "Mirror",
    "MirrorClient",
    "MirrorServer",
    "Publisher",
    "RemoteHandle",
    "bound_memory",
]
