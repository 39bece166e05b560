# shellcheck shell=bash
# The folder: a Debian tree with the QEMU and the kernel of the lab, extracted but never configured or booted. Its programs run through
# its own dynamic loader, so that nothing of this machine is changed and no chroot is needed.

LAB_HARNESS=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
readonly LAB_HARNESS
readonly LAB_SUITE=trixie
readonly LAB_MIRROR=${GODWIT_LAB_MIRROR:-http://deb.debian.org/debian}
readonly LAB_CACHE=${GODWIT_LAB_CACHE:-$HOME/.cache/godwit-lab}

# What the folder holds. QEMU and Linux come from backports: vfio-user-pci is in QEMU since 10.1.
readonly LAB_PACKAGES=base-files,busybox-static,e2fsprogs,fdisk,kmod,cpio,libstdc++6,linux-image-amd64,qemu-system-x86,strace

# built_once LOCK FOLDER BUILD: has BUILD make FOLDER, whose name ends in a key, unless it is there; one process builds, the others wait. Forgets others of its
# kind that nobody has used for a month. Returns 1 when it cannot be built; BUILD has said why.
built_once() {
  local lock
  mkdir -p "$LAB_CACHE"
  exec {lock}>"$LAB_CACHE/$1"
  flock "$lock"
  if [ ! -d "$2" ] && ! "$3"; then
    exec {lock}>&-
    return 1
  fi
  touch "$2"
  find "$LAB_CACHE" -maxdepth 1 -name "$(basename "${2%-*}")-????????????" -mtime +30 -exec rm -rf {} +
  exec {lock}>&-
}

# folder_ready: has FOLDER, KERNEL and KERNEL_VERSION set. Builds the folder if this list of packages has none yet. Returns 1 after saying
# why when it cannot be built.
folder_ready() {
  local key
  key=$(sha256sum <<<"1 $LAB_SUITE $LAB_MIRROR $LAB_PACKAGES" | cut -c 1-12)
  FOLDER=$LAB_CACHE/folder-$key
  built_once lock "$FOLDER" folder_build || return 1
  KERNEL_VERSION=$(basename "$(echo "$FOLDER"/usr/lib/modules/*)")
  # shellcheck disable=SC2034 # read by guest.sh
  KERNEL=$FOLDER/usr/lib/modules/$KERNEL_VERSION/vmlinuz
}

folder_build() {
  local start=$SECONDS building log=$LAB_CACHE/build.log
  printf 'building %s from %s (%s and its backports)\n' "$FOLDER" "$LAB_MIRROR" "$LAB_SUITE"
  rm -rf "$LAB_CACHE"/building.*
  building=$(mktemp -d "$LAB_CACHE/building.XXXXXX")
  chmod 755 "$building"
  if ! mmdebstrap --variant=extract --quiet \
    --aptopt="APT::Default-Release \"$LAB_SUITE-backports\"" --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$LAB_PACKAGES" \
    "$LAB_SUITE" "$building" "deb $LAB_MIRROR $LAB_SUITE main" "deb $LAB_MIRROR $LAB_SUITE-backports main" >"$log" 2>&1; then
    printf 'the folder cannot be built; the end of %s:\n' "$log"
    tail -n 5 "$log"
    rm -rf "$building"
    return 1
  fi
  rm -rf "$building"/usr/share/{doc,man,locale,info}
  FOLDER=$building folder_exec usr/sbin/depmod -b "$building" "$(basename "$(echo "$building"/usr/lib/modules/*)")" >>"$log" 2>&1 || return 1
  mv "$building" "$FOLDER"
  printf 'built in %d s, %s\n' $((SECONDS - start)) "$(du -sh "$FOLDER" | cut -f 1)"
}

# folder_exec PROGRAM ARGUMENT…: runs a program of the folder.
folder_exec() { FOLDER=$FOLDER "$LAB_HARNESS/folder-exec" "$@"; }
