# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced on either side of a guest: the names and secrets of a target for tests.
# shellcheck shell=bash
volume=0f8fad5b-d9cb-469f-a165-70867728950e
iqn=iqn.2026-01.kedge.test:volume initiator=iqn.2026-01.kedge.test:clone
secret=canary-one-3f1c9d mutual_secret=canary-two-77ab02
write_chap() { # DIR: chap, and chap.one-way, which proves nothing of the target
	(
		umask 077
		printf 'user = clone\nsecret = %s\nmutual-user = volume\nmutual-secret = %s\n' $secret $mutual_secret >"$1/chap"
		printf 'user = clone\nsecret = %s\n' $secret >"$1/chap.one-way"
	)
}
