#!/usr/bin/env bash
# Make one virtual environment per engine: the engine's own wheel, no GPU package, this checkout.
#
#   benchmarks/engines/setup.sh [sglang_0_5_5 | sglang_0_5_23 | vllm_0_33]...
#
# ENGINES   folder of the environments (default: .venv-engines)
# PYTHON    the interpreter (default: python3; 3.11 was tested)
# TORCH_INDEX   an index that serves the CPU build of torch, if pip's own settings name none
#
# The engines' pins exclude one another and most of them want CUDA wheels, so everything is installed
# with --no-deps from exact lists: tests/integration/engines/requirements/.
set -euo pipefail
cd "$(dirname "$0")/../.."

engines=${ENGINES:-.venv-engines}
requirements=tests/integration/engines/requirements
[ $# -gt 0 ] || set -- sglang_0_5_5 sglang_0_5_23 vllm_0_33

for name in "$@"; do
  list=$requirements/$name.txt
  [ -f "$list" ] || { echo "error: expected one of sglang_0_5_5, sglang_0_5_23, vllm_0_33, got $name" >&2; exit 2; }
  venv=$engines/$name
  stamp=$venv/.stamp
  if [ -e "$stamp" ] && [ "$stamp" -nt "$list" ] && [ "$stamp" -nt "$requirements/mmformat.txt" ]; then
    continue
  fi
  echo "Making $venv ..." >&2
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  pip=("$venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps)
  torch=$(grep '^torch==' "$list")
  "${pip[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
  "${pip[@]}" -r "$list" -r "$requirements/mmformat.txt"
  # hatchling builds the editable wheel; it is not kept in the engine's environment
  "$venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps -e .
  touch "$stamp"
done
