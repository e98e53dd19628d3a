#!/usr/bin/env bash
# Creates .venv with all run-time and test dependencies; does nothing if it is up to date.
# Needs python3 (3.11 or newer) with venv; as root on Debian or Ubuntu it installs python3-venv.
# DETECTRON2=own omits the bundled Detectron2: install yours in .venv afterwards.
set -euo pipefail
cd "$(dirname "$0")/../.."
export UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
stamp=.venv/.installed
wanted=$(cat pyproject.toml tools/setup/install.sh | sha256sum | cut -d' ' -f1)-${DETECTRON2:-bundled}-$(pwd | sha256sum | cut -c1-8)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then exit 0; fi

if command -v uv >/dev/null; then
  uv=uv
else
  if [[ ! -x .uv/bin/uv ]]; then
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
      if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
      else
        echo "error: python3 has no venv module; install the package python3-venv (Debian, Ubuntu), then run make setup again" >&2
        exit 2
      fi
    fi
    echo "set-up: installing uv into .uv"
    python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv
  fi
  uv=.uv/bin/uv
fi

echo "set-up: installing into .venv (first time: a few minutes, 7 GB of disk)"
extra=(--extra detectron2)
if [[ ${DETECTRON2:-bundled} == own ]]; then extra=(--inexact); fi
# Compiled bytecode makes the imports of every stage and test three times as fast.
"$uv" sync --quiet --compile-bytecode --python "$(command -v python3)" "${extra[@]}"
if [[ ${DETECTRON2:-bundled} != own ]]; then .venv/bin/python -m tools.setup.verify_detectron2; fi
printf '%s' "$wanted" >"$stamp"
