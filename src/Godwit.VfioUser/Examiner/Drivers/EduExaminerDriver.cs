namespace Godwit.VfioUser;

/// <summary>QEMU's educational device: its DMA engine copies a zeroed buffer (QEMU documentation, docs/specs/edu).</summary>
internal sealed class EduExaminerDriver(Examination e) : IExaminerDriver
{
    /// <summary>Vendor and device ID.</summary>
    public const uint Identity = 0x11E8_1234;

    private const ulong Liveness = 0x04;
    private const ulong Source = 0x80;
    private const ulong Destination = 0x88;
    private const ulong Count = 0x90;
    private const ulong CommandRegister = 0x98;
    private const ulong Buffer = 0x40000;
    private const ulong StartFromDevice = 3;

    public void Start(ExaminerMemory memory, ulong queues) => e.Write(PciRegion.Config, 4, [6, 0]); // memory, bus master

    public void Begin(ulong address)
    {
        Set(Source, Buffer);
        Set(Destination, address);
        Set(Count, WireLimits.PageSize);
        Set(CommandRegister, StartFromDevice);
    }

    public IReadOnlyList<(ulong Offset, int Size)> Marked { get; } = [(Liveness, 4), (Source, 8), (Destination, 8), (Count, 8)];

    public void Mark()
    {
        e.Write(0, Liveness, [0x12, 0x34, 0x56, 0x78]);
        Set(Source, Buffer + 64);
        Set(Destination, 0x1234_5000);
        Set(Count, 48);
    }

    public void Await()
    {
        long start = TimeProvider.System.GetTimestamp();
        while ((BitConverter.ToUInt64(e.Read(0, CommandRegister, 8)) & 1) != 0)
            Examination.Require(TimeProvider.System.GetElapsedTime(start) < e.Options.ReplyTimeout, "the DMA engine does not finish");
    }

    private void Set(ulong register, ulong value) => e.Write(0, register, BitConverter.GetBytes(value));
}
