#!/bin/bash
# Fetches the user-space headers of the newest kernel that Debian packages (linux-libc-dev of trixie-backports) into
# tests/lab/cache/kernel-headers, for the check of our kernel ABI. Does nothing when they are there.
set -euo pipefail
work=$(cd "$(dirname "$0")/.." && pwd)/cache
target=$work/kernel-headers
[ -e "$target/usr/include/linux/iommufd.h" ] && exit 0
mirror=${GODWIT_DEBIAN_MIRROR:-http://deb.debian.org/debian}
apt=$work/headers-apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/empty" "$target"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie-backports main" > "$apt/sources.list"
: > "$apt/status"
options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=$apt/empty" -o "Dir::State::Lists=$apt/lists"
  -o "Dir::Cache=$apt/cache" -o "Dir::State::Status=$apt/status" -o APT::Architecture=amd64 -o APT::Sandbox::User=root)
if ! apt-get -qq "${options[@]}" update; then
  echo "kernel headers skipped: $mirror cannot be reached" >&2
  exit 0
fi
(cd "$apt" && apt-get -qq "${options[@]}" download linux-libc-dev)
deb=$(echo "$apt"/*.deb)
dpkg-deb -x "$deb" "$target"
echo "kernel headers: $(dpkg-deb -f "$deb" Version) in $target"
rm -rf "$apt"
