#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A kernel clone whose kclone died and that never serves again (its source became another volume): the agent has it aborted, and is rid of it.
# usage: KEDGED=PATH BIN_DIR=DIR test_given_up.sh
. "$(dirname "$0")/lib.sh"

real=$BIN_DIR
BIN_DIR=$T/bin
mkdir "$BIN_DIR"
ln -s "$real/ktarget" "$BIN_DIR/ktarget"
cat >"$BIN_DIR/kclone" <<-END
	#!/bin/bash
	echo "\$*" >>"$T/calls"
	if [ -e "$T/is-deceived" ]; then
		case \$1 in
		serve) echo "kclone: not to be trusted" && exit 30 ;;
		abort) [ ! -e "$T/is-needed" ] || exit 9; exit 0 ;;
		esac
	fi
	exec "$real/kclone" "\$@"
END
chmod 755 "$BIN_DIR/kclone"
agent_config b
agent_start b

U=$(new_uuid) M=$(new_uuid)
step_done b v1 "$U" "$M" 1 RESERVE '{"size_bytes":4194304,"lbs_bytes":512}'
meta=$(ls "$T"/b/state/clones/v1.*.meta)
touch "$T/is-deceived" "$T/is-needed" "$meta.dm" # as if it were the kernel's
read -r pid _ <"$T/b/run/vol/v1/kclone.pid"
kill -9 -- "-$pid"
wait_until "kclone is gone" not_alive "$pid"

echo "# one that refuses to be given up is kept, and why it is not served is said"
step_fails EIO b v1 "$U" "$M" 1 REVOKE
[[ $(jq -r .error.message <<<"$STEP_BODY") == *"not to be trusted"* ]] || die "it says: $STEP_BODY"
[ -e "$meta" ] || die "the metadata of a clone that is needed was removed"
rm "$T/is-needed"
step_done b v1 "$U" "$M" 1 REVOKE
grep -qx "abort --meta $meta" "$T/calls" || die "not aborted: $(cat "$T/calls")"
[ -z "$(ls "$T"/b/state/clones)" ] && [ ! -e "$T/b/run/vol/v1" ] || die "left: $(ls "$T"/b/state/clones "$T/b/run/vol")"
echo "ok: given up"
