"""Put and get through one shared segment: a single writer, N readers, and deaths survived."""

from mmformat.transport.shm.handle import Handle
from mmformat.transport.shm.hold import Hold
from mmformat.transport.shm.mapping import Mapping
from mmformat.transport.shm.producer import ShmArena
from mmformat.transport.shm.reader import ShmReader
from mmformat.transport.shm.slot import Slot
from mmformat.transport.shm.stats import ArenaStats
from mmformat.transport.shm.sweep import SegmentInfo, list_segments, sweep

__all__ = [
    "ArenaStats",
    "Handle",
    "Hold",
    "Mapping",
    "SegmentInfo",
    "ShmArena",
    "ShmReader",
    "Slot",
    "list_segments",
    "sweep",
]
