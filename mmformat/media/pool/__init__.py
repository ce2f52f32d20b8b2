"""Materialize many requests at once, in threads or in worker processes."""

from mmformat.media.pool.pool import MaterializePool

__all__ = ["MaterializePool"]
