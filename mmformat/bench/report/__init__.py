"""The report: tables from results, the losing cells first, and plots of every raw sample."""

from mmformat.bench.report.read import read_result
from mmformat.bench.report.readme import write_readme
from mmformat.bench.report.write import write_report

__all__ = ["read_result", "write_readme", "write_report"]
