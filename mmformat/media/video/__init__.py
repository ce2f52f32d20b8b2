"""Video: frames chosen and decoded once; the patches of a model are in ``qwen_vl``."""

from mmformat.media.video.clip import Video, open_video
from mmformat.media.video.sampling import sample_frames

__all__ = ["Video", "open_video", "sample_frames"]
