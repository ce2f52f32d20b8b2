"""The demo: photographs materialized once and read by every rank, checked bit for bit."""

from mmformat.bench.demo.show import DemoOptions, run_demo
from mmformat.bench.demo.stages import DemoReport

__all__ = ["DemoOptions", "DemoReport", "run_demo"]
