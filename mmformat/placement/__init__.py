"""Place tensors on a device: pinned memory, side streams, and codes expanded where they land."""

from mmformat.placement.device import resolve_device
from mmformat.placement.expand import expand_codes, expand_on_device
from mmformat.placement.landing import FrameMap, Landing
from mmformat.placement.lane import Lane, lane_of
from mmformat.placement.registration import Registration
from mmformat.placement.releases import Releases
from mmformat.placement.staging import Staging, staging_of
from mmformat.placement.stats import PlacementStats
from mmformat.placement.unpacked import Unpacked

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
