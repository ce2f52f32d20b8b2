#!/bin/bash
# Run the GPU tests and the placement scenarios; results go to the folder $1.
#   bash benchmarks/run_on_gpus.sh OUT [one|all]      one: one GPU; all: every GPU of this machine
out=$1
export PYTHONPATH="$PWD:$PYTHONPATH" PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
df -h /dev/shm
nproc
step() {
  echo "== $*"
  local from=$SECONDS
  "${@:2}" 2>&1
  echo "== $1: status $?, $((SECONDS - from)) s"
}
step tests python3 -m pytest tests/gpu -q --timeout 100 -p no:cacheprovider
parts=(expansion one-device)
[ "$2" = all ] && parts=(pool ranks tower)
for part in "${parts[@]}"; do
  step "$part" python3 -m benchmarks placement "$part" --json "$out/$part.json"
done
