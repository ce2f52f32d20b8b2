"""Put and get through one shared segment: a single writer, N readers, and deaths survived."""

from mmformat.shm.handle import Handle
from mmformat.shm.hold import Hold
from mmformat.shm.mapping import Mapping
from mmformat.shm.producer import Lent, ShmArena
from mmformat.shm.reader import ShmReader
from mmformat.shm.slot import Slot
from mmformat.shm.stats import ArenaStats
from mmformat.shm.sweep import SegmentInfo, list_segments, sweep

__all__ = [
    "ArenaStats",
    "Handle",
    "Hold",
    "Lent",
    "Mapping",
    "SegmentInfo",
    "ShmArena",
    "ShmReader",
    "Slot",
    "list_segments",
    "sweep",
]
