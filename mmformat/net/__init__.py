"""Move messages between hosts over Arrow Flight: once over the network, once per host."""

from mmformat.net.local import MirrorClient
from mmformat.net.mirror import Mirror
from mmformat.net.publisher import Publisher
from mmformat.net.remote_handle import RemoteHandle
from mmformat.net.tls import TLS

__all__ = ["TLS", "Mirror", "MirrorClient", "Publisher", "RemoteHandle"]
