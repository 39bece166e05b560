#!/bin/bash
# Fetches the user-space headers of the newest kernel that Debian packages (linux-libc-dev of trixie-backports) into
# tests/lab/cache/kernel-headers, for the check of our kernel ABI. Does nothing when they are there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${here%/*}/cache
target=$cache/kernel-headers
[ -e "$target/usr/include/linux/iommufd.h" ] && exit 0
if version=$("$here/package.sh" linux-libc-dev "$cache/headers-apt" "$target"); then
  echo "kernel headers: $version in $target"
else
  echo "kernel headers skipped" >&2
fi
