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
tests=(python3 -m pytest tests/gpu -q --timeout 100 -p no:cacheprovider)
if [ "$2" = all ]; then
  step tests "${tests[@]}"
  step pool python3 benchmarks/placement.py pool --out "$out/pool.json"
  step ranks python3 benchmarks/placement.py ranks --out "$out/ranks.json"
  step tower python3 benchmarks/placement.py tower --out "$out/tower.json"
else
  step tests "${tests[@]}"
  step expansion python3 benchmarks/placement.py expansion --out "$out/expansion.json"
  step one-device python3 benchmarks/placement.py one-device --out "$out/one-device.json"
fi
