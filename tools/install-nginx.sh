#!/bin/sh
# Puts nginx on a Debian machine, for the test of nomad/proxy/nginx.conf.
#
# Only the program: the package would start a server on port 80 and bring a user and a site of its own. Does nothing
# when an `nginx` is on PATH. It goes to /usr/local/bin, or to bin below $PREFIX; to undo it, remove it there.
set -eu

bin=${PREFIX:-/usr/local}/bin

say() { printf '%s\n' "install-nginx: $*"; }
give_up() { printf '%s\n' "install-nginx: $*" >&2; exit 1; }

if command -v nginx >/dev/null 2>&1; then
    say "nginx is already here: $(command -v nginx)"
    exit 0
fi
command -v apt-get >/dev/null 2>&1 ||
    give_up "this machine has no apt-get; put an nginx on PATH by hand and run the tests again."
[ -w "$bin" ] ||
    give_up "$bin may not be written to; run it as root, name another place with PREFIX, or put an nginx on PATH."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
chmod 0755 "$work" # apt fetches as its own user

fetch() { (cd "$work" && apt-get -o Acquire::Retries=2 download nginx) >>"$work/log" 2>&1; }
# A machine may have no package lists yet, or old ones.
fetch || { apt-get update >>"$work/log" 2>&1 && fetch; } || {
    tail -n 5 "$work/log" >&2
    give_up "apt could not serve nginx; put one on PATH."
}
dpkg-deb --extract "$work"/nginx_*.deb "$work/package"
program=$work/package/usr/sbin/nginx
version=$("$program" -v 2>&1) || {
    printf '%s\n' "$version" >&2
    give_up "the nginx of this machine's suite does not run here; put another one on PATH."
}
install -m 0755 "$program" "$bin/nginx.new"
mv "$bin/nginx.new" "$bin/nginx"
say "installed $version as $bin/nginx"
