"""The demo: photographs materialized once and read by every rank, checked bit for bit."""

from mmformat.demo.run import DemoOptions, DemoReport, run_demo

__all__ = ["DemoOptions", "DemoReport", "run_demo"]
