using System.Diagnostics;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Tests;

/// <summary>A CPU without a thread, for driver code that a test calls itself.</summary>
internal sealed class TestCpu(GuestBus bus) : GuestCpu(bus)
{
    private readonly long _start = Stopwatch.GetTimestamp();
    private RegisterFile _registers = RegisterFile.PowerOn;

    public override uint ApicId => 0;

    public override ref RegisterFile Registers => ref _registers;

    public override void SendInterrupt(uint destination, byte vector) => throw new NotSupportedException("a CPU alone has nobody to interrupt");

    public override ulong Clock => (ulong)Stopwatch.GetElapsedTime(_start).TotalNanoseconds;
}
