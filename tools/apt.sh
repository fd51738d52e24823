#!/usr/bin/env bash
# Install Debian packages if possible; otherwise print why not and succeed.
#
#   tools/apt.sh PACKAGE…
#
# A package counts as installed if a command has its name or dpkg knows it. Whatever needs a missing
# package fails later, with this message above it.
set -euo pipefail

missing=()
for package in "$@"; do
    command -v "$package" >/dev/null || dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

give_up() {
    printf 'tools/apt.sh: %s; install the packages yourself: apt-get install %s\n' "$1" "${missing[*]}" >&2
    exit 0
}

command -v apt-get >/dev/null || give_up "apt-get is not available"
as_root=()
if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || give_up "installing packages needs root"
    as_root=(sudo -n)
fi

printf 'installing %s …\n' "${missing[*]}" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120)
install() { "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >&2; }
# Package lists may be missing or out of date: update them if the first attempt fails.
install || { "${apt[@]}" update </dev/null >&2 && install; } || give_up "apt-get failed"

# Debian starts services on installation; only the commands are needed here.
if [[ -d /run/systemd/system ]]; then
    "${as_root[@]}" systemctl disable --now "${missing[@]}" </dev/null >&2 2>/dev/null || true
fi
