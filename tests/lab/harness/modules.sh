# shellcheck shell=bash
# Modules for the lab's kernel. Debian builds it without iommufd, but nothing in the kernel itself depends on that setting, and it has no symbol versions: so
# iommufd and a VFIO that knows it are built as modules from Debian's source of the same version, some 45 files, instead of a kernel.

readonly LAB_KERNEL=$LAB_HARNESS/../kernel
# What a module needs of a built tree.
readonly LAB_TREE_KEEPS=(Makefile Kbuild .config Module.symvers include scripts arch/x86 tools/objtool/objtool)
readonly LAB_MODULES=(iommu/iommufd/iommufd_driver iommu/iommufd/iommufd vfio/vfio vfio/vfio_iommu_type1 vfio/pci/vfio-pci-core vfio/pci/vfio-pci)
# As if these were in the kernel's configuration; what is built in is not asked again.
readonly LAB_DEFINES='-DCONFIG_IOMMUFD_MODULE=1 -DCONFIG_IOMMUFD_DRIVER_MODULE=1 -DCONFIG_IOMMUFD_DRIVER_CORE_MODULE=1 -DCONFIG_VFIO_DEVICE_CDEV=1 -DCONFIG_INTERVAL_TREE_SPAN_ITER=1'

# iommufd_ready: has MODULES name a folder with the modules, and tree, a tree against which others are built. Builds it if that has not been done for this
# kernel. Returns 1 after saying why when it cannot be built.
iommufd_ready() {
  local key
  key=$(cat - "$LAB_HARNESS/modules.sh" <<<"$KERNEL_VERSION" | sha256sum | cut -c 1-12)
  MODULES=$LAB_CACHE/modules-$key
  built_once modules-lock "$MODULES" modules_build || return 1
  export MODULES
}

modules_build() {
  local start=$SECONDS building log=$LAB_CACHE/modules.log
  prepare_packages flex:flex bison:bison bc:bc make:make gcc:gcc xz:xz-utils pahole:pahole /usr/include/libelf.h:libelf-dev /usr/include/openssl/ssl.h:libssl-dev || return 1
  printf 'building iommufd and VFIO for %s in %s\n' "$KERNEL_VERSION" "$MODULES"
  rm -rf "$LAB_CACHE"/modules-building.*
  building=$(mktemp -d "$LAB_CACHE/modules-building.XXXXXX")
  if ! { modules_fetch "$building" && modules_tree "$building" && modules_make "$building"; } >"$log" 2>&1; then
    printf 'they cannot be built; the end of %s:\n' "$log"
    tail -n 5 "$log"
    rm -rf "$building"
    return 1
  fi
  mv "$building/kept" "$MODULES"
  rm -rf "$building"
  printf 'built in %d s, %s\n' $((SECONDS - start)) "$(du -sh "$MODULES" | cut -f 1)"
}

# modules_fetch FOLDER: FOLDER/tree has the source, with the configuration and the symbols of the kernel that runs.
modules_fetch() {
  local folder=$1 source headers
  source=$("$LAB_KERNEL/package.sh" linux-source "$folder/apt" "$folder/source") || return 1
  # ${source%% *} is linux-source-7.3, what follows its version.
  case ${source##* } in
    "${KERNEL_VERSION%%+*}"-*) ;;
    *) echo "the mirror has the source of ${source##* }, and the kernel is $KERNEL_VERSION" && return 1 ;;
  esac
  "$LAB_KERNEL/package.sh" "linux-headers-$KERNEL_VERSION" "$folder/apt" "$folder/headers" || return 1
  mkdir "$folder/tree" "$folder/kept" &&
    tar -xJf "$folder/source/usr/src/${source%% *}.tar.xz" -C "$folder/tree" --strip-components=1 --exclude='*/drivers/'{gpu,media,net,scsi}'/*.[ch]' \
      --exclude='*/sound/*.[ch]' --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' --exclude='*/arch/*.dts*' || return 1
  headers=$folder/headers/usr/src/linux-headers-$KERNEL_VERSION
  cp "$headers/.config" "$headers/Module.symvers" "$folder/tree/" && rm -rf "$folder/source" "$folder/headers"
}

# modules_tree FOLDER: makes FOLDER/tree one that modules can be built against, and keeps what they need of it in FOLDER/kept/tree.
modules_tree() {
  local folder=$1 keep
  make -C "$folder/tree" olddefconfig && make -j "$(nproc)" -C "$folder/tree" KERNELRELEASE="$KERNEL_VERSION" modules_prepare || return 1
  mkdir "$folder/kept/tree" && cd "$folder/tree" || return 1
  for keep in "${LAB_TREE_KEEPS[@]}"; do
    cp -r --parents "$keep" "$folder/kept/tree" || return 1
  done
}

# modules_make FOLDER: leaves the modules in FOLDER/kept.
modules_make() {
  local folder=$1 out=$1/out module
  mkdir -p "$out/iommu"
  cp -r "$folder/tree/drivers/vfio" "$out/vfio"
  cp -r "$folder/tree/drivers/iommu/iommufd" "$out/iommu/"
  cp "$folder"/tree/drivers/iommu/*.h "$out/iommu/"
  echo 'obj-m += iommu/iommufd/ vfio/' >"$out/Kbuild"
  # What a kernel with iommufd has built in becomes part of its module: the bitmaps, and the span iterator of lib/interval_tree.c.
  sed -i -e '/CONFIG_IOMMUFD_DRIVER) += iova_bitmap.o/d' -e 's/iommufd_driver-y := driver.o/& iova_bitmap.o spans.o/' "$out/iommu/iommufd/Makefile"
  {
    printf '// SPDX-License-Identifier: GPL-2.0-only\n'
    printf '#include <linux/%s.h>\n' interval_tree export limits module
    sed -n '/^#ifdef CONFIG_INTERVAL_TREE_SPAN_ITER/,$p' "$folder/tree/lib/interval_tree.c"
  } >"$out/iommu/iommufd/spans.c"
  make -j "$(nproc)" -C "$folder/kept/tree" KERNELRELEASE="$KERNEL_VERSION" M="$out" KCFLAGS="$LAB_DEFINES" \
    CONFIG_IOMMUFD=m CONFIG_IOMMUFD_DRIVER=m CONFIG_IOMMUFD_DRIVER_CORE=m CONFIG_VFIO_DEVICE_CDEV=y CONFIG_VFIO_MDEV= CONFIG_PDS_VFIO_PCI= \
    CONFIG_ISM_VFIO_PCI= CONFIG_QAT_VFIO_PCI= CONFIG_NVGRACE_GPU_VFIO_PCI= CONFIG_HISI_ACC_VFIO_PCI= modules || return 1
  for module in "${LAB_MODULES[@]}"; do
    strip -g -o "$folder/kept/${module##*/}.ko" "$out/$module.ko" || return 1
  done
  cp "$out/Module.symvers" "$folder/kept/"
}

# iommufd_image TREE: the modules, to be loaded instead of those of the same name that Debian has built.
iommufd_image() {
  local tree=$1 module
  for module in "${LAB_MODULES[@]##*/}"; do
    install -m 644 "$MODULES/$module.ko" "$tree/modules/"
    sed -i "/^$module.ko$/d" "$tree/modules/order"
    echo "$module.ko" >>"$tree/modules/order"
  done
}

# module_image TREE SOURCES: builds a module of this tree and puts it into the image, without loading it: /lab/NAME.ko
module_image() {
  local tree=$1 sources=$2 name build
  name=$(sed -n 's/^obj-m := \(.*\)\.o$/\1/p' "$sources/Kbuild")
  build=$WORK/module-$name
  cp -r "$sources" "$build"
  if ! make -C "$MODULES/tree" KERNELRELEASE="$KERNEL_VERSION" M="$build" KBUILD_EXTRA_SYMBOLS="$MODULES/Module.symvers" KCFLAGS="$LAB_DEFINES" modules \
    >"$WORK/module.log" 2>&1 || grep -q 'warning:' "$WORK/module.log"; then
    cat "$WORK/module.log"
    return 1
  fi
  strip -g -o "$tree/lab/$name.ko" "$build/$name.ko"
}
