#!/bin/bash
# Build an environment with SGLang 0.5.23 for the CPU, and run the server's tests in it.
#   SERVER_VENV   where the environment is kept (default .venv-sglang)
#   SERVER_PYTHON which Python makes it (default python3.11)
set -euo pipefail
cd "$(dirname "$0")/../../.."
venv=${SERVER_VENV:-.venv-sglang}
requirements=tests/integration/engines/requirements
if [ ! -e "$venv/.ready" ]; then
  "${SERVER_PYTHON:-python3.11}" -m venv "$venv"
  pip() { "$venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps "$@"; }
  pip -r $requirements/sglang_0_5_23.txt -r $requirements/mmformat.txt
  pip jsonschema jsonschema-specifications referencing rpds-py xgrammar soundfile cffi pycparser
  # torchvision is a CUDA build, whose operators do not match a CPU torch; SGLang needs its Python.
  pip torchvision==0.29.1
  : > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision/_meta_registrations.py"
  touch "$venv/.ready"
fi
"$venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps hatchling pathspec pluggy trove-classifiers editables
"$venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
PYTHONPATH=$PWD HF_HUB_OFFLINE=1 exec "$venv/bin/python" -m pytest -q -p no:cacheprovider tests/servers/sglang "$@"
