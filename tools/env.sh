#!/usr/bin/env bash
# Make the environment of requirements/NAME.lock once per machine and print its path.
#
#   tools/env.sh NAME          make it if it is not there, print its folder
#   tools/env.sh --path NAME   print the folder only, made or not
#   tools/env.sh --lock NAME   resolve requirements/NAME.in anew into NAME.lock
#
# Heavy environments (torch, engines) are shared by all checkouts of a machine:
# ${XDG_CACHE_HOME:-~/.cache}/modelium/envs/NAME-HASH, HASH being of the lock and the Python
# version. One is built beside its place and moved there when complete, so a folder of that
# name is always whole; two callers at once wait for each other.
#
# pip installs, not uv: it honours the machine's own wheel folders (PIP_FIND_LINKS), where a
# CPU build of torch saves the gigabytes of the CUDA one. A first line `# pip: OPTIONS` in the
# lock passes options to pip, such as --no-deps. PYTHON names another interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelium/envs

cd "$root" # a lock may name folders of the checkout, relative to its root

say() { printf '%s\n' "$*" >&2; }
die() { say "tools/env.sh: $*"; exit 1; }

options() { sed -n '1s/^# pip: *//p' "$1"; }

install() { # FOLDER REQUIREMENTS
    "$python" -m venv "$1" >&2 ||
        die "no virtual environment with $python: install python3-venv (apt-get install python3-venv)"
    # shellcheck disable=SC2046  # options are words
    "$1/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        $(options "$2") -r "$2" >&2 </dev/null || die "installing $2 failed; pip's reason is above"
}

lock() { # NAME
    local in=$root/requirements/$1.in out=$root/requirements/$1.lock
    [[ -f $in ]] || die "there is no requirements/$1.in"
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT # work outlives this function: the trap runs after it
    install "$work/env" "$in"
    # The CUDA halves of torch are named by torch itself where its CUDA build is taken, and a
    # local version (+cpu) names one machine's build: neither belongs into a lock for all.
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
        say "making the environment $name in $home (minutes, once per machine) …"
        partial=$cache/.partial-$name-$hash
        rm -rf -- "$partial" # of a run that was cut off: the lock is ours
        trap 'rm -rf -- "$partial"' EXIT
        install "$partial" "$file"
        # Scripts carry the interpreter's absolute path, that of the folder they were made in.
        grep -rIlF -- "$partial" "$partial/bin" "$partial/pyvenv.cfg" |
            xargs -r -d '\n' sed -i "s|$partial|$home|g"
        mv -- "$partial" "$home"
    fi
fi
printf '%s\n' "$home"
