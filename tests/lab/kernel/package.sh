#!/bin/bash
# package.sh PACKAGE WORK TARGET: downloads the newest PACKAGE that Debian's trixie-backports has, working in the folder WORK, and unpacks it into
# TARGET. Its name and version go to standard output. Fails after saying why when the mirror cannot be reached.
set -euo pipefail
package=$1 work=$2 target=$3
mirror=${GODWIT_DEBIAN_MIRROR:-${GODWIT_LAB_MIRROR:-http://deb.debian.org/debian}}
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/empty" "$target"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie-backports main" >"$work/sources.list"
: >"$work/status"
options=(-o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=$work/empty" -o "Dir::State::Lists=$work/lists"
  -o "Dir::Cache=$work/cache" -o "Dir::State::Status=$work/status" -o APT::Architecture=amd64 -o APT::Sandbox::User=root)
apt-get -qq "${options[@]}" update || { echo "$mirror cannot be reached" >&2; exit 1; }
# A package without content of its own stands for the newest of its kind: linux-source for linux-source-7.3.
newest=$(apt-cache "${options[@]}" depends "$package" | sed -n "s/^  Depends: \($package-[0-9.]*\)$/\1/p" | tail -n 1)
(cd "$work" && apt-get -qq "${options[@]}" download "${newest:-$package}")
deb=$(echo "$work"/*.deb)
dpkg-deb -x "$deb" "$target"
echo "${newest:-$package} $(dpkg-deb -f "$deb" Version)"
rm -rf "$work"
