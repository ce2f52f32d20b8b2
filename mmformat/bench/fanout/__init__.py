"""One producer and N reader processes: the time until the last one has read every page."""

from mmformat.bench.fanout.run import run_fanout

__all__ = ["run_fanout"]
