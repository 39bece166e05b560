# shellcheck shell=bash
# initramfs images: busybox, the modules that a test names, its guest script, and programs with the libraries they need.

readonly LAB_GUEST=$LAB_HARNESS/../guest

# image_new TREE: a tree with busybox and the init of every guest.
image_new() {
  local tree=$1 applet
  mkdir -p "$tree"/{bin,dev,proc,sys,tmp,run,mnt,etc,lab,modules,lib64,lib/x86_64-linux-gnu}
  install -m 755 "$FOLDER/usr/bin/busybox" "$tree/bin/busybox"
  while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
  done < <("$FOLDER/usr/bin/busybox" --list)
  install -m 755 "$LAB_GUEST/init" "$tree/init"
  install -m 644 "$LAB_GUEST/report" "$tree/lab/report"
  : >"$tree/modules/order"
}

# image_modules TREE NAME…: kernel modules with what they need, in the order in which init loads them.
image_modules() {
  local tree=$1 name kind path file
  shift
  for name in "$@"; do
    while read -r kind path _; do
      [ "$kind" = insmod ] || continue # builtin
      file=$(basename "$path" .xz)
      [ ! -e "$tree/modules/$file" ] || continue
      xz -dc "$path" >"$tree/modules/$file"
      echo "$file" >>"$tree/modules/order"
    done < <(folder_exec usr/sbin/modprobe -d "$FOLDER" -S "$KERNEL_VERSION" -D "$name")
    grep -qx "${name//[-_]/[-_]}.ko" "$tree/modules/order" || { echo "the kernel $KERNEL_VERSION has no module $name"; return 1; }
  done
}

# image_libraries TREE FILE…: the loader and the libraries that programs or libraries need, of the folder.
image_libraries() {
  local tree=$1 file library
  shift
  install -m 755 "$FOLDER/lib64/ld-linux-x86-64.so.2" "$tree/lib64/"
  for file in "$@"; do
    while read -r library; do
      install -m 644 "$library" "$tree/lib/x86_64-linux-gnu/"
    done < <("$FOLDER/lib64/ld-linux-x86-64.so.2" --library-path "$FOLDER/usr/lib/x86_64-linux-gnu" --list "$file" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p')
  done
}

# image_programs TREE PATH…: programs of the folder into /usr/bin, with their libraries. Call them with their path: busybox's shell prefers
# its own applets to what PATH says.
image_programs() {
  local tree=$1 program
  shift
  mkdir -p "$tree/usr/bin"
  for program in "$@"; do
    install -m 755 "$FOLDER/$program" "$tree/usr/bin/"
    image_libraries "$tree" "$FOLDER/$program"
  done
}

# image_c TREE SOURCE: a C program, built statically with this machine's compiler, into /usr/bin.
image_c() {
  mkdir -p "$1/usr/bin"
  cc -static -O2 -Wall -Wextra -Werror -o "$1/usr/bin/$(basename "$2" .c)" "$2"
}

# image_test TREE SCRIPT: what the guest is to do.
image_test() { install -m 755 "$2" "$1/lab/test"; }

# image_pack TREE IMAGE: not compressed, since an emulated CPU would pay for it.
image_pack() {
  (cd "$1" && find . -print0 | folder_exec usr/bin/cpio --null --quiet -o -H newc) >"$2"
}
