# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Sourced first by each test here, with its arguments: BIN TESTBIN (directories of the programs).
set -euo pipefail
# shellcheck disable=SC2034 # used by cluster.sh
BIN=$1
# shellcheck disable=SC2034
TESTBIN=$2
CLUSTER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
for program in jq curl sqlite3 mkfs.ext4 debugfs ip nsenter losetup findmnt; do
	command -v "$program" >/dev/null || {
		echo "FAILED: $program is not installed"
		exit 1
	}
done
# shellcheck source=../lib/cluster.sh
. "$CLUSTER_ROOT/tests/lib/cluster.sh"
