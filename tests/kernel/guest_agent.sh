#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A host with a kernel of its own, in a guest: its disk (ubda) mounted, an agent on it, until END-HOST appears in DIR; then it says what is left
# in the kernel, and takes all down. usage: guest_agent.sh HOST DIR BIN MODULES
host=$1 dir=$2 bin=$3
set -uo pipefail
for m in loop fuse $4; do kmod "$m"; done
mkdir -p /run/host
mount /dev/ubda /run/host || exit 1
"$bin/kedged" --config "$dir/kedged-$host.conf" >"$dir/kedged-$host.log" 2>&1 &
daemon=$!
# by a listing: names that were looked up in vain are remembered
for ((i = 0; i < 3000; i++)); do
	case "$(ls "$dir")" in *"END-$host"*) break ;; esac
	case "$(ls "$dir")" in *"KILL-$host"*) # every kclone, at once
		pids=$(pgrep kclone)
		kill -9 $pids
		echo "$pids" | wc -l >"$dir/killed-$host"
		rm -f "$dir/KILL-$host"
		;;
	esac
	case "$(ls "$dir")" in *"LOOK-$host"*)
		{
			dmsetup table 2>&1 | while read -r line; do # of what lies on a loop device: its file
				number=$(grep -o ' 7:[0-9]*' <<<"$line" | head -n 1)
				echo "$line${number:+ over $(cat "/sys/dev/block/${number# }/loop/backing_file")}"
			done
			echo "processes: $(pgrep -fc '^kclone (worker|driver)')"
		} >"$dir/seen-$host.tmp"
		sync -f "$dir"
		mv "$dir/seen-$host.tmp" "$dir/seen-$host" && rm -f "$dir/LOOK-$host"
		;;
	esac
	sleep 0.2
done
cp -r /run/host/state/log "$dir/logs-$host"
kill "$daemon"
wait "$daemon"
for pid in $(pgrep -x rowwriter); do kill "$pid"; done # a test that ended early
for pid in $(pgrep -x kclone); do kill "$pid"; done
for ((i = 0; i < 100; i++)); do pgrep -x kclone >/dev/null || break; sleep 0.1; done
{ dmsetup ls 2>&1; losetup -a; } >"$dir/left-$host"
umount /run/host || { umount -l /run/host; exit 1; }
