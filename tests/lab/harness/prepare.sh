# shellcheck shell=bash
# What must be there before anything of the lab runs: tools, the folder, and the program to test.

# shellcheck source=tests/lab/harness/folder.sh
. "${BASH_SOURCE[0]%/*}/folder.sh"

# prepare: exports GODWIT, FOLDER, KERNEL and KERNEL_VERSION. Returns 1 after saying why when the lab cannot be had here; a tree that does
# not build ends the run.
prepare() {
  prepare_tools && folder_ready || return 1
  if [ -z "${GODWIT:-}" ]; then
    local tree
    tree=$(cd "$LAB_HARNESS/../../.." && pwd)
    dotnet build -c Release --nologo -v quiet "$tree/src/Godwit.Cli" || exit 1
    GODWIT=$tree/src/Godwit.Cli/bin/Release/net10.0/godwit
  fi
  export GODWIT FOLDER KERNEL KERNEL_VERSION
  printf 'QEMU %s, Linux %s\n' "$(folder_exec usr/bin/qemu-system-x86_64 --version | sed -n 's/.*version \([^ ]*\).*/\1/p')" "$KERNEL_VERSION"
}

prepare_tools() { prepare_packages mmdebstrap:mmdebstrap xz:xz-utils cc:gcc cc:libc6-dev; }

# prepare_packages COMMAND:PACKAGE…: installs the packages whose command (or file) is missing. Returns 1 after saying why when that cannot be done.
prepare_packages() {
  local each
  local -a packages=()
  for each in "$@"; do
    command -v "${each%%:*}" >/dev/null || [ -e "${each%%:*}" ] || packages+=("${each#*:}")
  done
  [ ${#packages[@]} -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || { echo "install ${packages[*]} first, or run as root"; return 1; }
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null && return 0
  echo "${packages[*]} cannot be installed"
  return 1
}
