#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Manual pages and --help name the same options, per program and, for kedge, per verb; and scdoc accepts every page.
# usage: test_man.sh MAN-DIR KEDGE PROGRAM...
set -euo pipefail
man_dir=$1
kedge=$2
shift 2
bad=0

options_in() { # text on stdin
	grep -oE -- '--[a-z][a-z-]*' | sort -u || true
}

compare() { # WHAT HELP-OPTIONS MAN-OPTIONS
	local only
	only=$(comm -3 <(printf '%s\n' "$2") <(printf '%s\n' "$3"))
	if [ -n "$only" ]; then
		echo "FAILED: $1: in --help only (left) or in the manual page only (right):"
		echo "$only"
		bad=1
	else
		echo "ok: $1: $(grep -c . <<<"$2") options"
	fi
}

for page in "$man_dir"/*.scd; do
	scdoc <"$page" >/dev/null || bad=1
done

for program in "$@"; do
	name=$(basename "$program")
	page=$(ls "$man_dir/$name".[0-9].scd)
	help=$("$program" --help)
	# programs with verbs explain those on their own pages of help
	if [ "$name" = kclone ]; then
		for verb in $(sed -n 's/^  \([a-z]*\) .*/\1/p' <<<"$help"); do
			help+=$("$program" "$verb" --help)
		done
	fi
	compare "$name" "$(options_in <<<"$help")" "$(options_in <"$page")"
done

# kedge: verb by verb. A verb's text runs from its line to that of the next one or to the next heading.
page=$man_dir/kedge.1.scd
verbs=$("$kedge" --help | sed -n '/^  [a-z]/p' | sed -E 's/^  (([a-z]+ )?[a-z]+) .*/\1/' | grep -v '^--')
nr=0
while read -r -a words; do
	# a one-word verb is followed by its argument or its explanation
	"$kedge" "${words[@]}" --help >/dev/null 2>&1 || words=("${words[0]}")
	verb="${words[*]}"
	text=$(awk -v verb="$verb" '
		/^#/ { is_in = 0 }
		/^\*kedge / { if (!was_head) is_in = 0; was_head = 1; if ($0 ~ "^\\*kedge " verb "\\*") is_in = 1; }
		!/^\*kedge / { was_head = 0 }
		is_in { print }' "$page")
	if [ -z "$text" ]; then
		echo "FAILED: kedge $verb is not in the manual page"
		bad=1
		continue
	fi
	compare "kedge $verb" "$("$kedge" "${words[@]}" --help | options_in | grep -vx -- '--option' || true)" \
		"$(options_in <<<"$text")"
	nr=$((nr + 1))
done <<<"$verbs"
[ "$nr" -ge 18 ] || { echo "FAILED: only $nr verbs were looked at"; bad=1; }
exit "$bad"
