# shellcheck shell=bash
# Guests: QEMU of the folder with a serial console in a file, a limit to its silence, and a verdict.

# An emulated CPU on a busy machine is late for everything: the guest's kernel is told not to take that for a fault.
readonly LAB_APPEND='console=ttyS0 quiet panic=0 no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1'

# No guest runs longer, whatever it has to say.
readonly LAB_LONGEST=5400

# guest_run SECONDS IMAGE APPEND QEMU-ARGUMENT…: boots the kernel with an image, waits for its end, and judges: the guest must have said that
# its test went well, and its kernel must not have stumbled. What the guest reports goes to standard output, everything to $WORK/console. QEMU
# must say nothing but what QEMU_MAY_SAY matches. SECONDS without a word on the console end it: on a busy machine a guest is slow, but it gets on.
guest_run() {
  local limit=$1 image=$2 append=$3 console=$WORK/console qemu_log=$WORK/qemu.log qemu last=$((SECONDS + LAB_LONGEST)) deadline said=0 now reason
  shift 3
  : >"$console"
  QEMU_MODULE_DIR=$FOLDER/usr/lib/x86_64-linux-gnu/qemu \
    "$LAB_HARNESS/folder-exec" usr/bin/qemu-system-x86_64 -L "$FOLDER/usr/share/qemu" -L "$FOLDER/usr/share/seabios" \
    -nodefaults -no-user-config -display none -serial "file:$console" \
    -kernel "$KERNEL" -initrd "$image" -append "$LAB_APPEND $append" "$@" >"$qemu_log" 2>&1 &
  qemu=$!
  deadline=$((SECONDS + limit))
  while kill -0 "$qemu" 2>/dev/null; do
    now=$(stat -c %s "$console")
    [ "$now" -eq "$said" ] || { said=$now deadline=$((SECONDS + limit)); }
    reason=
    if grep -q 'Kernel panic' "$console"; then
      reason="the guest's kernel gave up"
    elif [ $SECONDS -ge $deadline ]; then
      reason="the guest has said nothing for $limit s"
    elif [ $SECONDS -ge $last ]; then
      reason="the guest was not through after $LAB_LONGEST s"
    fi
    if [ -n "$reason" ]; then
      kill -KILL "$qemu" 2>/dev/null || :
      printf '%s\n' "$reason" >>"$qemu_log"
      break
    fi
    sleep 0.2
  done
  wait "$qemu" || printf 'QEMU ended with code %d\n' $? >>"$qemu_log"
  tr -d '\r' <"$console" | sed -n 's/^.*lab: //p'
  guest_verdict "$console" "$qemu_log"
}

guest_verdict() {
  local console=$1 qemu_log=$2
  if grep -qE 'Kernel panic|BUG:|Oops:|WARNING: CPU|Call Trace' "$console"; then
    echo "the guest's kernel stumbled"
  elif ! grep -q 'lab: end 0' "$console"; then
    echo "the guest's test did not end well"
  elif grep -qvE "${QEMU_MAY_SAY:-^$}" "$qemu_log"; then
    echo "QEMU had something to say"
  else
    return 0
  fi
  echo '--- QEMU' && cat "$qemu_log"
  echo '--- the end of the console' && tail -n 60 "$console"
  return 1
}

# guest_machine [SIZE]: the arguments of the machine that every test starts from, in MACHINE. RAM is a shared file, for device processes.
guest_machine() {
  local size=${1:-1G}
  # shellcheck disable=SC2034 # read by the cases
  MACHINE=(-machine "q35,accel=tcg,kernel-irqchip=split,memory-backend=ram" -cpu max -smp 2 -m "$size"
    -object "memory-backend-memfd,id=ram,size=$size,share=on")
}

# device_start SOCKET ARGUMENT…: `godwit device ARGUMENT…` in the background, and waits until it listens. DEVICE is its process.
device_start() {
  local socket=$1 deadline=$((SECONDS + 300))
  shift
  "$GODWIT" device "$@" --socket "$socket" >"$WORK/device.log" 2>&1 &
  DEVICE=$!
  while [ $SECONDS -lt $deadline ]; do
    ! grep -q 'listening on' "$WORK/device.log" || return 0
    kill -0 "$DEVICE" 2>/dev/null || break
    sleep 0.1
  done
  echo "godwit device $* does not listen:"
  cat "$WORK/device.log"
  return 1
}

# device_stop: asks the device to end, and says whether it did so without a fault.
device_stop() {
  kill -TERM "$DEVICE"
  wait "$DEVICE" && return 0
  echo "the device ended with code $?:"
  cat "$WORK/device.log"
  return 1
}
