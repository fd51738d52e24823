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
# pip installs them instead of uv because it supports PIP_FIND_LINKS, where a CPU build of torch
# avoids the gigabytes of the CUDA build. A first line `# pip: OPTIONS` in the lock file passes
# options to pip, such as --no-deps. PYTHON selects another interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelium/envs

cd "$root" # lock files may contain paths relative to the root of the checkout

say() { printf '%s\n' "$*" >&2; }
die() { say "tools/env.sh: $*"; exit 1; }

options() { sed -n '1s/^# pip: *//p' "$1"; }

install() { # FOLDER REQUIREMENTS
    "$python" -m venv "$1" >&2 ||
        die "cannot create a virtual environment with $python; install python3-venv (apt-get install python3-venv)"
    # shellcheck disable=SC2046  # options are words
    "$1/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        $(options "$2") -r "$2" >&2 </dev/null || die "installing $2 failed; see pip's output above"
}

lock() { # NAME
    local in=$root/requirements/$1.in out=$root/requirements/$1.lock
    [[ -f $in ]] || die "there is no requirements/$1.in"
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT # runs after this function, so work must not be local
    install "$work/env" "$in"
    # Lock files must fit every machine: torch's CUDA build pulls in its CUDA packages by itself,
    # and a local version (+cpu) is specific to this machine.
    {
        sed -n '1{/^# pip: /p}' "$in"
        "$work/env/bin/python" -m pip freeze --exclude pip --exclude setuptools |
            sed -E '/^(nvidia-|cuda-|triton==)/d; s/(==[^+]+)\+[a-z0-9.]+$/\1/'
    } >"$work/lock"
    mv -- "$work/lock" "$out"
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
