#!/bin/sh
# Puts a real Consul agent on a Debian machine, for the contract and acceptance tests.
#
# Debian carried `consul` last in its suite bullseye. The package is fetched from the mirror that this
# machine's apt already uses, with package lists of its own, so that bullseye is never enabled here and no
# later `apt-get upgrade` sees it. Does nothing when a `consul` is on PATH. It goes to
# /usr/local/bin, or to bin below $PREFIX; to undo it, remove it there.
set -eu

suite=bullseye
bin=${PREFIX:-/usr/local}/bin

say() { printf '%s\n' "install-consul: $*"; }
give_up() { printf '%s\n' "install-consul: $*" >&2; exit 1; }

if command -v consul >/dev/null 2>&1; then
    say "consul is already here: $(command -v consul)"
    exit 0
fi
command -v apt-get >/dev/null 2>&1 ||
    give_up "this machine has no apt-get; put a consul binary on PATH by hand and run the tests again."
[ -w "$bin" ] ||
    give_up "$bin may not be written to; run it as root, name another place with PREFIX, or put a consul binary on PATH."

# A tab-separated line "URI signed-by" for each archive of Debian itself that apt is configured with, from
# the one-line format and from deb822 stanzas. Security and debug archives carry no consul.
archives() {
    eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
    for file in "$list" "$parts"/*.list; do
        [ -f "$file" ] || continue
        awk '
            $1 == "deb" {
                sub(/^[ \t]*deb[ \t]+/, ""); sub(/[ \t]*#.*/, "")
                options = ""
                if (match($0, /^\[[^]]*\]/)) {
                    options = substr($0, 2, RLENGTH - 2); $0 = substr($0, RLENGTH + 1)
                }
                signed = ""
                n = split(options, option, /[ \t]+/)
                for (i = 1; i <= n; i++)
                    if (tolower(option[i]) ~ /^signed-by=/) signed = substr(option[i], 11)
                for (i = 3; i <= NF; i++)
                    if ($i == "main") { print $1 "\t" signed; next }
            }' "$file"
    done
    for file in "$parts"/*.sources; do
        [ -f "$file" ] || continue
        # One stanza a record; comment lines may stand inside of it, and a folded line goes on its field.
        awk '
            function stanza(   n, i, uri) {
                if (tolower(field["enabled"]) != "no" && field["types"] ~ /(^| )deb( |$)/ &&
                    field["components"] ~ /(^| )main( |$)/) {
                    n = split(field["uris"], uri, " ")
                    # A key written into the stanza itself is not a path and cannot be handed on.
                    if (split(field["signed-by"], key, " ") != 1) field["signed-by"] = ""
                    for (i = 1; i <= n; i++) print uri[i] "\t" field["signed-by"]
                }
                split("", field); name = ""
            }
            /^#/ { next }
            /^[ \t]*$/ { stanza(); next }
            /^[ \t]/ { field[name] = field[name] " " $0; next }
            {
                colon = index($0, ":"); name = tolower(substr($0, 1, colon - 1))
                value = substr($0, colon + 1); gsub(/^[ \t]+|[ \t]+$/, "", value); field[name] = value
            }
            END { stanza() }' "$file"
    done
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
chmod 0755 "$work" # apt fetches as its own user
mkdir -p "$work/lists/partial" "$work/parts"

archives | awk -F '\t' '$1 !~ /security|debug/ && !seen[$1]++' >"$work/archives"
[ -s "$work/archives" ] ||
    give_up "apt on this machine names no Debian archive with component main; put a consul binary on PATH."

with_suite() {
    # Only this run sees these lists; the machine's own sources and lists stay as they are.
    apt-get -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/parts" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o Acquire::Languages=none -o APT::Get::List-Cleanup=0 -o Acquire::Retries=2 "$@"
}

while IFS="$(printf '\t')" read -r uri signed; do
    options=
    [ -z "$signed" ] || options="[signed-by=$signed] "
    printf 'deb %s%s %s main\n' "$options" "$uri" "$suite" >"$work/sources.list"
    if with_suite update >"$work/log" 2>&1 &&
        (cd "$work" && with_suite download consul) >>"$work/log" 2>&1; then
        found=yes
        break
    fi
done <"$work/archives"
[ "${found:-}" = yes ] || {
    tail -n 5 "$work/log" >&2
    give_up "no archive of this machine's apt could serve consul from suite $suite; put a consul binary on PATH."
}

# Only the program: installed as a package it would bring a service that starts by itself, a system user
# and dependencies, all of which the tests are better off without.
target=$bin/consul
dpkg-deb --extract "$work"/consul_*.deb "$work/package"
version=$("$work/package/usr/bin/consul" version 2>"$work/log" | head -n 1) || true
[ -n "$version" ] || {
    tail -n 5 "$work/log" >&2
    give_up "the consul of suite $suite does not run on this machine; put another one on PATH."
}
install -m 0755 "$work/package/usr/bin/consul" "$target.new"
mv "$target.new" "$target"
say "installed $version as $target"
