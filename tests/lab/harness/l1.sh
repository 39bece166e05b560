# shellcheck shell=bash
# L1: a machine of QEMU with an emulated VT-d in which Godwit itself runs, on Linux's VFIO. It has educational devices at 0000:01:00.0 and
# 0000:02:00.0, each alone behind a port, so that it can be reset by its bus, and, when there is a disk, an NVMe controller at 0000:00:06.0.

# l1_tree TREE: a tree with Godwit, the .NET runtime and VFIO's modules. /lab/l1 is to be sourced by what runs in it.
l1_tree() {
  local tree=$1 program runtime
  program=$(dirname "$GODWIT")
  # Asked rather than derived from the path of dotnet, which may be a link or a script.
  runtime=$(dotnet --list-runtimes | sed -n 's/^Microsoft.NETCore.App 10\..*\[\(.*\)\/shared\/Microsoft.NETCore.App\]$/\1/p' | tail -n 1)
  image_new "$tree"
  image_modules "$tree" vfio_iommu_type1 vfio-pci
  mkdir -p "$tree/godwit" "$tree/dotnet/shared"
  cp -r "$program/." "$tree/godwit/"
  cp -r "$runtime/host" "$tree/dotnet/"
  cp -r "$runtime/shared/Microsoft.NETCore.App" "$tree/dotnet/shared/"
  image_libraries "$tree" "$GODWIT" "$runtime"/host/fxr/*/libhostfxr.so "$runtime"/shared/Microsoft.NETCore.App/*/lib{coreclr,clrjit,hostpolicy,System.Native}.so
  image_programs "$tree" usr/bin/strace
  install -m 644 "$LAB_GUEST/l1" "$tree/lab/l1"
}

# l1_run SECONDS TREE [DISK]: boots it and judges.
l1_run() {
  local limit=$1 tree=$2 disk=${3:-}
  local -a devices=(-device 'intel-iommu,intremap=on,caching-mode=on'
    -device 'pcie-root-port,id=first,addr=5,chassis=1' -device 'edu,bus=first' -device 'pcie-root-port,id=second,addr=7,chassis=2' -device 'edu,bus=second')
  # nvme-stress expects zeros where it has deallocated when the namespace says that deallocated blocks read so (DLFEAT), as QEMU's does: then
  # QEMU must really deallocate.
  [ -z "$disk" ] || devices+=(-drive "file=$disk,format=raw,if=none,id=disk,discard=unmap" -device 'nvme,addr=6,serial=L1,drive=disk,logical_block_size=4096,physical_block_size=4096')
  image_pack "$tree" "$WORK/image"
  guest_machine 3G
  guest_run "$limit" "$WORK/image" intel_iommu=on "${MACHINE[@]}" "${devices[@]}"
}
