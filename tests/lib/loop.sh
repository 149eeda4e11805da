# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced. Loop devices of a test's own files, let go without ever touching those of a test that runs beside it.

# loop_drop DEVICE PREFIX: lets the device go if its backing file begins with PREFIX. An open descriptor keeps it bound to what we look
# at; losetup -d then frees it at the last close.
loop_drop() {
	local file fd
	{ exec {fd}<"$1"; } 2>/dev/null || return 0
	file=$(losetup -n -O BACK-FILE "$1" 2>/dev/null) || file=
	[ "${file#"$2"}" = "$file" ] || losetup -d "$1" 2>/dev/null || true
	exec {fd}<&-
}

# loop_drop_all PREFIX
loop_drop_all() {
	local device
	for device in $(losetup -n --raw -O NAME,BACK-FILE 2>/dev/null | awk -v p="$1" 'index($2, p) == 1 { print $1 }'); do
		umount -l "$device" 2>/dev/null || true
		loop_drop "$device" "$1"
	done
}
