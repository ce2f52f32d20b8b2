"""Place tensors on a device: pinned memory, side streams, and codes expanded where they land."""

from mmformat.cuda.copy_stream import Lane, lane_of
from mmformat.cuda.device import resolve_device
from mmformat.cuda.device_views import FrameMap, Landing
from mmformat.cuda.event_callbacks import Releases
from mmformat.cuda.expand import expand_codes, expand_on_device
from mmformat.cuda.pinned_scratch import Unpacked
from mmformat.cuda.registration import Registration
from mmformat.cuda.staging import Staging, staging_of
from mmformat.cuda.stats import PlacementStats

__all__ = [
    "FrameMap",
    "Landing",
    "Lane",
    "PlacementStats",
    "Registration",
    "Releases",
    "Staging",
    "Unpacked",
    "expand_codes",
    "expand_on_device",
    "lane_of",
    "resolve_device",
    "staging_of",
]
