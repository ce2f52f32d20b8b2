"""The report: tables from results, the losing cells first, and plots of every raw sample."""

from benchmarks.report.read import read_result
from benchmarks.report.readme import write_readme
from benchmarks.report.write import write_report

__all__ = ["read_result", "write_readme", "write_report"]
