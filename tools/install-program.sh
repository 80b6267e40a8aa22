#!/bin/sh
# Puts one program of a Debian package on a machine, for tests: install-program.sh PROGRAM [PACKAGE]
#
# Only the program: a package may start a server, and bring a user and a site of its own. Does nothing when the program
# is on PATH. It goes to /usr/local/bin, or to bin below $PREFIX; to undo it, remove it there.
set -eu

program=${1:?name the program}
package=${2:-$program}
bin=${PREFIX:-/usr/local}/bin

say() { printf '%s\n' "install-program: $*"; }
give_up() { printf '%s\n' "install-program: $*" >&2; exit 1; }

if command -v "$program" >/dev/null 2>&1; then
    say "$program is already here: $(command -v "$program")"
    exit 0
fi
command -v apt-get >/dev/null 2>&1 ||
    give_up "this machine has no apt-get; put $program on PATH by hand and run the tests again."
[ -w "$bin" ] ||
    give_up "$bin may not be written to; run it as root, name another place with PREFIX, or put $program on PATH."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
chmod 0755 "$work" # apt fetches as its own user

fetch() { (cd "$work" && apt-get -o Acquire::Retries=2 download "$package") >>"$work/log" 2>&1; }
# A machine may have no package lists yet, or old ones.
fetch || { apt-get update >>"$work/log" 2>&1 && fetch; } || {
    tail -n 5 "$work/log" >&2
    give_up "apt could not serve $package; put $program on PATH."
}
dpkg-deb --extract "$work/$package"_*.deb "$work/package"
for folder in usr/bin usr/sbin; do
    found=$work/package/$folder/$program
    [ -x "$found" ] && break
done
[ -x "$found" ] || give_up "the package $package holds no $program; put one on PATH."
if lacks=$(ldd "$found" 2>&1 | grep "not found"); then
    printf '%s\n' "$lacks" >&2
    give_up "$program of this machine's suite needs libraries that are not here; put another one on PATH."
fi
install -m 0755 "$found" "$bin/$program.new"
mv "$bin/$program.new" "$bin/$program"
say "installed $bin/$program"
