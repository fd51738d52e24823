#!/usr/bin/env bash
# Create the environment of requirements/NAME.lock once per machine and print its path.
#
#   tools/env.sh NAME          create it if it does not exist, print its path
#   tools/env.sh --path NAME   print the path only, whether it exists or not
#   tools/env.sh --lock NAME   resolve requirements/NAME.in into NAME.lock
#
# All checkouts of a machine share these large environments (torch, engines). Their path is
# ${XDG_CACHE_HOME:-~/.cache}/modelium/envs/NAME-HASH, with a hash of the lock file and the Python
# version. Each is built under a temporary name and renamed when complete, so a directory of the
# final name is always complete. A file lock serializes concurrent callers.
#
# Lock files name every package with the hashes of its files, so pip resolves nothing (--no-deps).
# pip installs them instead of uv because it supports PIP_FIND_LINKS: torch's hashes include those
# of a CPU build, which is preferred where a link or an index offers it. Elsewhere pip takes the
# release of the same version, which also needs requirements/cuda.lock, some gigabytes. A first line
# `# local: PATH` is a package of this checkout to install as well. PYTHON selects another
# interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelium/envs

cd "$root" # lock files may contain paths relative to the root of the checkout

say() { printf '%s\n' "$*" >&2; }
die() { say "tools/env.sh: $*"; exit 1; }

pip() { # ENVIRONMENT ARGUMENT…
    "$1/bin/python" -m pip "$2" --disable-pip-version-check --no-input "${@:3}" >&2 </dev/null
}

create() { # FOLDER
    "$python" -m venv "$1" >&2 ||
        die "cannot create a virtual environment with $python; install python3-venv (apt-get install python3-venv)"
}

locked() { # FOLDER LOCK
    pip "$1" install --progress-bar off --no-deps --require-hashes -r "$2" ||
        die "installing $2 failed; see pip's output above"
}

install() { # FOLDER LOCK
    create "$1"
    locked "$1" "$2"
    local extra
    extra=$(sed -n '1s/^# local: *//p' "$2")
    [[ -z $extra ]] || pip "$1" install --progress-bar off --no-deps "./$extra" ||
        die "installing $extra failed; see pip's output above"
    local torch
    torch=$("$1/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true)
    if [[ -n $torch && $torch != *+cpu ]]; then
        say "no CPU build of torch is offered: installing CUDA's libraries, too"
        locked "$1" requirements/cuda.lock
    fi
}

hashed() { # REQUIREMENTS LOCK
    .venv/bin/uv pip compile -q --no-deps --generate-hashes --no-annotate --no-header \
        "$1" -o "$2" >&2 || die "cannot read the hashes from the index; run make setup first"
}

lock() { # NAME
    local in=$root/requirements/$1.in out=$root/requirements/$1.lock
    [[ -f $in ]] || die "there is no requirements/$1.in"
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT # runs after this function, so work must not be local
    create "$work/env"
    # pip takes no hashes in constraints.
    cp "$in" "$work/$1.in"
    sed -E '/^ +--hash/d; s/ *\\$//' requirements/modelium.lock >"$work/modelium.lock"
    pip "$work/env" install -r "$work/$1.in" || die "installing $in failed; see pip's output above"
    # Lock files must fit every machine: CUDA's packages are in cuda.lock, and a local version
    # (+cpu) is specific to this machine.
    "$work/env/bin/python" -m pip freeze --exclude pip --exclude setuptools |
        sed -E '/^(nvidia-|cuda-|triton==)/d; s/(==[^+]+)\+[a-z0-9.]+$/\1/' >"$work/frozen"
    hashed "$work/frozen" "$out"
    local torch hash
    if torch=$(grep -o '^torch==[^ ]*' "$out") &&
        pip "$work/env" download -q --no-deps -d "$work/cpu" "$torch+cpu"; then
        hash=$(sha256sum "$work"/cpu/torch-*+cpu-*.whl | cut -c1-64)
        sed -i "s/^torch==.*/&\n    --hash=sha256:$hash \\\\/" "$out"
    fi
    say "wrote requirements/$1.lock"
}

case ${1:-} in
--lock) lock "${2:?NAME}"; exit ;;
--path) only_path=1 name=${2:?NAME} ;;
'' | -*) die "usage: tools/env.sh [--path|--lock] NAME" ;;
*) only_path= name=$1 ;;
esac

file=$root/requirements/$name.lock
[[ -f $file ]] || die "there is no requirements/$name.lock"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
hash=$({ cat "$file"; printf '%s' "$version"; } | sha256sum | cut -c1-12)
home=$cache/$name-$hash

if [[ -z $only_path && ! -d $home ]]; then
    mkdir -p "$cache"
    exec 9>"$cache/.$name-$hash.lock"
    flock 9
    if [[ ! -d $home ]]; then
        say "creating the environment $name in $home (takes minutes, once per machine) …"
        partial=$cache/.partial-$name-$hash
        rm -rf -- "$partial" # left by an interrupted run; no other can be active
        trap 'rm -rf -- "$partial"' EXIT
        install "$partial" "$file"
        # Scripts contain the interpreter's absolute path, which the rename changes.
        grep -rIlF -- "$partial" "$partial/bin" "$partial/pyvenv.cfg" |
            xargs -r -d '\n' sed -i "s|$partial|$home|g"
        mv -- "$partial" "$home"
    fi
fi
printf '%s\n' "$home"
