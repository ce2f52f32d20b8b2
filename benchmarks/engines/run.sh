#!/usr/bin/env bash
# Run the adapters' tests, or their benchmarks, in each engine's environment.
#
#   benchmarks/engines/run.sh test  [pytest arguments]
#   benchmarks/engines/run.sh bench [arguments, as --rounds 15 --out benchmarks/engines/results]
#
# ENGINES   folder of the environments (default: .venv-engines; setup.sh makes them)
# ONLY      the environments to use, by name (default: all three)
set -euo pipefail
cd "$(dirname "$0")/../.."

engines=${ENGINES:-.venv-engines}
read -r -a names <<< "${ONLY:-sglang_0_5_5 sglang_0_5_23 vllm_0_33}"
what=${1:-test}
shift || true

benchmarks/engines/setup.sh "${names[@]}"
failed=()
for name in "${names[@]}"; do
  python=$engines/$name/bin/python
  printf '\n== %s %s\n' "$what" "$name"
  case $what:$name in
    test:*) "$python" -m pytest -q -p no:cacheprovider tests/integration/engines "$@" ;;
    bench:sglang*) "$python" -W ignore -m benchmarks.engines.sglang --side "$name" "$@" ;;
    bench:vllm*) "$python" -W ignore -m benchmarks.engines.vllm "$@" ;;
    *) echo "error: expected test or bench, got $what" >&2; exit 2 ;;
  esac || failed+=("$name")
done
[ ${#failed[@]} -eq 0 ] || { echo "error: failed: ${failed[*]}" >&2; exit 1; }
