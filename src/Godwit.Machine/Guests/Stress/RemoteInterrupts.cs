using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>
/// What CPUs other than the first do: they sleep until a device interrupts them, count it, and tell the first CPU, which alone has the
/// program's state. Each controller interrupts one of them at a time, so its counter has one writer.
/// </summary>
internal static class RemoteInterrupts
{
    private const uint BootCpu = 0;

    /// <summary>Nothing to do but to be there.</summary>
    public static void Sleep(GuestCpu cpu)
    {
        cpu.Registers.InterruptsEnabled = true;
        cpu.Halt();
    }

    /// <summary>Counts, then passes the vector on. Both are in memory before the first CPU is told.</summary>
    public static void Forward(GuestCpu cpu, byte vector)
    {
        int controller = PciStage.ControllerOf(vector, StressLayout.MaxControllers);
        if (controller < 0)
            throw new GuestPanicException($"CPU {cpu.ApicId} got vector 0x{vector:x}, which no device has");
        Gpa counter = CounterOf(controller);
        cpu.Bus.StoreRelease64(counter, cpu.Bus.Load<ulong>(counter) + 1);
        cpu.SendInterrupt(BootCpu, vector);
    }

    /// <summary>Moves the interrupts of all controllers to the other of the two CPUs, when it is time.</summary>
    public static void Move(GuestCpu cpu, ref StressControl control, ulong now)
    {
        if (control.InterruptMoves.Take(now, control.Options.InterruptMoves, 1) == 0)
            return;
        control.InterruptsAtBootCpu = !control.InterruptsAtBootCpu;
        uint destination = control.InterruptsAtBootCpu ? BootCpu : (uint)control.Options.InterruptCpu;
        for (uint i = 0; i < control.ControllerCount; i++)
            control.Unit.MoveInterrupts(cpu, i * 2, order: 1, destination);
    }

    /// <summary>How many there have been. Host side.</summary>
    public static long Count(GuestBus memory)
    {
        Span<byte> word = stackalloc byte[sizeof(ulong)];
        long count = 0;
        for (int i = 0; i < StressLayout.MaxControllers; i++)
        {
            if (memory.TryRead(CounterOf(i), word))
                count += BitConverter.ToInt64(word);
        }

        return count;
    }

    private static Gpa CounterOf(int controller) => StressLayout.RemoteInterrupts + ((ulong)controller * sizeof(ulong));
}
