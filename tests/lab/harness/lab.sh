# shellcheck shell=bash
# What a case begins with. The runner has set GODWIT, FOLDER, KERNEL and KERNEL_VERSION, and WORK, an empty folder for it alone.
set -euo pipefail
: "${WORK:?run it through tests/lab/run}" "${GODWIT:?}" "${FOLDER:?}" "${KERNEL:?}" "${KERNEL_VERSION:?}"

# shellcheck source=tests/lab/harness/folder.sh
[ -n "${LAB_HARNESS:-}" ] || . "${BASH_SOURCE[0]%/*}/folder.sh"
# shellcheck source=tests/lab/harness/image.sh
. "${BASH_SOURCE[0]%/*}/image.sh"
# shellcheck source=tests/lab/harness/guest.sh
. "${BASH_SOURCE[0]%/*}/guest.sh"
# shellcheck source=tests/lab/harness/modules.sh
. "${BASH_SOURCE[0]%/*}/modules.sh"
# shellcheck source=tests/lab/harness/l1.sh
. "${BASH_SOURCE[0]%/*}/l1.sh"

# skip REASON: ends the case without a verdict.
skip() {
  echo "$*"
  exit 77
}

# Nothing that a case started outlives it.
trap 'exec 2>/dev/null; jobs -p | xargs -r kill -KILL || :' EXIT
