"""Convert many old pickles into messages: in parallel, resumable, each whole or not at all."""

from mmformat.legacy.batch.conversion import ConversionSummary, convert_files, find_sources
from mmformat.legacy.batch.job import FileResult

__all__ = ["ConversionSummary", "FileResult", "convert_files", "find_sources"]
