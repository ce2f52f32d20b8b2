"""A folder of messages: appended to by many processes, read as one collection."""

from mmformat.dataset.dataset import Dataset, open_dataset

__all__ = ["Dataset", "open_dataset"]
