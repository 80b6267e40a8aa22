#!/bin/sh
# Puts microsocks on a Debian machine, for the tests and the benchmark of the egress guard.
#
# Only the program: the package may start a server of its own. Does nothing when a `microsocks` is on PATH.
# It goes to /usr/local/bin, or to bin below $PREFIX; to undo it, remove it there.
set -eu

bin=${PREFIX:-/usr/local}/bin

say() { printf '%s\n' "install-microsocks: $*"; }
give_up() { printf '%s\n' "install-microsocks: $*" >&2; exit 1; }

if command -v microsocks >/dev/null 2>&1; then
    say "microsocks is already here: $(command -v microsocks)"
    exit 0
fi
command -v apt-get >/dev/null 2>&1 ||
    give_up "this machine has no apt-get; put a microsocks on PATH by hand and run the tests again."
[ -w "$bin" ] ||
    give_up "$bin may not be written to; run it as root, name another place with PREFIX, or put a microsocks on PATH."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
chmod 0755 "$work" # apt fetches as its own user

fetch() { (cd "$work" && apt-get -o Acquire::Retries=2 download microsocks) >>"$work/log" 2>&1; }
# A machine may have no package lists yet, or old ones.
fetch || { apt-get update >>"$work/log" 2>&1 && fetch; } || {
    tail -n 5 "$work/log" >&2
    give_up "apt could not serve microsocks; put one on PATH."
}
dpkg-deb --extract "$work"/microsocks_*.deb "$work/package"
program=$work/package/usr/bin/microsocks
install -m 0755 "$program" "$bin/microsocks.new"
mv "$bin/microsocks.new" "$bin/microsocks"
say "installed $bin/microsocks"
