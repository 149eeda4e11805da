#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What is built into bin/ and what README.md calls a program is what `cmake --install` installs, each with its manual page.
# usage: install.sh BUILD SOURCE
set -euo pipefail

build=$1 source=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/kedge-install.XXXXXX")
trap 'rm -rf "$work"' EXIT

DESTDIR=$work cmake --install "$build" >"$work/log"
bin=$(dirname "$(find "$work" -type f -name kedged -path '*/bin/*')")
programs=$(sed -n 's/^| `\([a-z]*\)` |.*/\1/p' "$source/README.md" | sort)
[ "$(wc -w <<<"$programs")" -ge 5 ] || { echo "README.md names too few programs: $programs"; exit 1; }
diff <(echo "$programs") <(ls "$build/bin") || { echo "built (>) is not what README.md names (<)"; exit 1; }
diff <(echo "$programs") <(ls "$bin") || { echo "installed (>) is not what README.md names (<)"; exit 1; }
for program in $programs; do
	"$bin/$program" --version | grep -q "^$program [0-9]" || { echo "$program: --version"; exit 1; }
	[ -z "$(command -v scdoc)" ] || find "$work" -name "$program.[18]" | grep -q . || { echo "$program: no manual page"; exit 1; }
done
echo "$(wc -w <<<"$programs") programs installed"
