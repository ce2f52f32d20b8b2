#!/usr/bin/env bash
# Measure on this machine and make every page from what is committed.
#   benchmarks/run.sh NAME [SCENARIO...]      all scenarios when none is named; `report` only makes the pages
# writes benchmarks/results/SCENARIO-NAME.json, then docs/benchmarks.md and its pictures, docs/strategies.md and
# the numbers in README.md. About 20 minutes on two idle cores; the fan-out has some 80 processes.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?a name for the machine, as 2-cores}
shift
python=${PYTHON:-.venv/bin/python}
results=benchmarks/results
mkdir -p "$results"
# The quick ones first: what goes wrong is seen before the long ones start.
all=(counts put detect legacy codec compression materialize growth strategies fanout fanout-large)
fanout=(mmformat-arena mmformat-arena-again mmformat-arena-dictionary mmformat-arena-codes mmformat
  pickle5 pickle5-oob msgspec-oob safetensors pyfory tenso segment-per-tensor tensordict ray memcpy touch)
large=(mmformat-arena mmformat-arena-again mmformat pickle5-oob msgspec-oob segment-per-tensor memcpy touch)
for scenario in "${@:-${all[@]}}"; do
  options=()
  case $scenario in
    report) continue ;;
    codec) options=(--payload image-small --payload image --payload photo --payload images-8 --rounds 7) ;;
    compression) options=(--rounds 5) ;;
    fanout)
      options=(--payload image-small --payload image --payload photo --rounds 11)
      for method in "${fanout[@]}"; do options+=(--method "$method"); done
      ;;
    fanout-large)  # apart: sixteen methods at once would not fit into 24 GiB
      options=(--payload images-8 --rounds 7)
      for method in "${large[@]}"; do options+=(--method "$method"); done
      ;;
  esac
  echo "== $scenario, $(date +%T)"
  file="$results/$scenario-$name.json"
  [ "$scenario" = counts ] && file="$results/counts.json"  # the same on every machine
  "$python" -m benchmarks "${scenario%-large}" ${options[@]+"${options[@]}"} --json "$file" > /dev/null
done
"$python" -m benchmarks report "$results"/*.json "$results"/placement/*.json \
  -o docs/benchmarks.md --plots docs/benchmarks --strategies docs/strategies.md --readme README.md
echo "== done, $(date +%T)"
