#!/usr/bin/env bash
# Create .venv with requirements/dev.lock, installed by a pinned uv, and this checkout (editable).
#
# A stamp file with a hash of the inputs makes further calls instant. PYTHON selects another
# interpreter.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly uv_version=0.13.9 venv=.venv python=${PYTHON:-python3}
stamp=$venv/.modelium-stamp

say() { printf '%s\n' "$*" >&2; }
die() { say "make setup: $*"; exit 1; }

want=$({ cat requirements/dev.lock pyproject.toml tools/setup.sh; pwd; } | sha256sum | cut -c1-64)
if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$want" ]]; then
    exit 0
fi

command -v "$python" >/dev/null || die "$python not found; install Python 3.11 or later, or set PYTHON"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
    die "$python is $("$python" -V); set PYTHON to a Python 3.11, 3.12 or 3.13"

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        tools/apt.sh python3-venv # a separate package on Debian
    fi
    "$python" -m venv --clear "$venv" </dev/null ||
        die "cannot create a virtual environment with $python; install python3-venv (apt-get install python3-venv)"
fi

say "installing requirements/dev.lock into $venv …"
"$venv/bin/python" -m pip install --disable-pip-version-check --no-input -q "uv==$uv_version" \
    </dev/null || die "cannot install uv; see pip's output above"
"$venv/bin/uv" pip install -q --python "$venv/bin/python" --require-hashes -r requirements/dev.lock </dev/null ||
    die "cannot install requirements/dev.lock; see uv's output above"
"$venv/bin/uv" pip install -q --python "$venv/bin/python" --no-deps -e . </dev/null ||
    die "cannot install this checkout; see uv's output above"
printf '%s' "$want" >"$stamp"
