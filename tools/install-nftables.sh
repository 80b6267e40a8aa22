#!/bin/sh
# Puts nft and ip on a Debian machine, for the test of nomad/host/waha-egress.nft.
#
# Debian's package nftables loads no rules and starts nothing by itself. Does nothing when both programs are on PATH.
set -eu

say() { printf '%s\n' "install-nftables: $*"; }
give_up() { printf '%s\n' "install-nftables: $*" >&2; exit 1; }

if command -v nft >/dev/null 2>&1 && command -v ip >/dev/null 2>&1; then
    say "nft is already here: $(command -v nft)"
    exit 0
fi
command -v apt-get >/dev/null 2>&1 ||
    give_up "this machine has no apt-get; put nft and ip on PATH by hand and run the tests again."
[ "$(id -u)" = 0 ] || give_up "packages are installed by root; run it as root, or put nft and ip on PATH."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

install_them() {
    DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=2 install -y --no-install-recommends \
        nftables iproute2 >>"$log" 2>&1
}
# A machine may have no package lists yet, or old ones.
install_them || { apt-get update >>"$log" 2>&1 && install_them; } || {
    tail -n 5 "$log" >&2
    give_up "apt could not install nftables; put nft and ip on PATH."
}
say "installed $(nft --version)"
