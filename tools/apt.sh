#!/usr/bin/env bash
# Install Debian packages where that is possible; say so and go on where it is not.
#
#   tools/apt.sh PACKAGE…
#
# A package counts as there when a command of its name is, or when dpkg knows it. What needs a
# missing one fails by itself later, with this message above it.
set -euo pipefail

missing=()
for package in "$@"; do
    command -v "$package" >/dev/null || dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

give_up() {
    printf 'tools/apt.sh: %s, so install it by hand: apt-get install %s\n' "$1" "${missing[*]}" >&2
    exit 0
}

command -v apt-get >/dev/null || give_up "there is no apt-get here"
as_root=()
if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || give_up "this needs root"
    as_root=(sudo -n)
fi

printf 'installing %s …\n' "${missing[*]}" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120)
install() { "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >&2; }
# The package lists of a fresh container are empty, those of an old one are stale.
install || { "${apt[@]}" update </dev/null >&2 && install; } || give_up "apt-get failed"

# Debian starts the services that it installs; what is wanted here are the commands.
if [[ -d /run/systemd/system ]]; then
    "${as_root[@]}" systemctl disable --now "${missing[@]}" </dev/null >&2 2>/dev/null || true
fi
