"""Draw one page that shows what a message holds: self-contained, and safe to open."""

from mmformat.page.draw import PageBounds, draw

__all__ = ["PageBounds", "draw"]
