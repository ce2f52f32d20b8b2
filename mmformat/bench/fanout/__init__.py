"""One producer and N reader processes: the time until the last one has read every page."""

from mmformat.bench.fanout.run import FANOUT_ARMS, FANOUT_PAYLOADS, QUICK_ARMS, run_fanout

__all__ = ["FANOUT_ARMS", "FANOUT_PAYLOADS", "QUICK_ARMS", "run_fanout"]
