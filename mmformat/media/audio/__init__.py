"""Audio: samples decoded, brought to a model's rate, and turned into its log-mel frames."""

from mmformat.media.audio.resampling import resample
from mmformat.media.audio.samples import Audio, load_audio
from mmformat.media.audio.whisper import WhisperProcessor

__all__ = ["Audio", "WhisperProcessor", "load_audio", "resample"]
