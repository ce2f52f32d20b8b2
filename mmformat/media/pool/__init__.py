"""Materialize many requests at once, in threads or in processes of their own."""

from mmformat.media.pool.pool import MaterializePool

__all__ = ["MaterializePool"]
