#!/usr/bin/env bash
# Measure codec, put and fan-out on this machine, and make the report from what is committed.
#   benchmarks/run.sh NAME [ARGUMENTS FOR EVERY SCENARIO]
# writes benchmarks/results/{codec,put,fanout}-NAME.json, then docs/benchmarks.md and its pictures from
# every such file. About 25 minutes on two idle cores; 70 processes of 150 MB each for the fan-out.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?a name for the machine, as laptop-2c}
shift
mmformat=${MMFORMAT:-.venv/bin/mmformat}
results=benchmarks/results
mkdir -p "$results"
for scenario in put codec fanout; do
  "$mmformat" bench "$scenario" --json "$results/$scenario-$name.json" "$@"
done
"$mmformat" bench report "$results"/{fanout,put,codec}-*.json \
  -o docs/benchmarks.md --plots docs/benchmarks
