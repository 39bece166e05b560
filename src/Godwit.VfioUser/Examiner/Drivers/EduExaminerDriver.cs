namespace Godwit.VfioUser;

/// <summary>QEMU's educational device: its DMA engine copies a zeroed buffer (QEMU documentation, docs/specs/edu).</summary>
internal sealed class EduExaminerDriver(Examination e) : IExaminerDriver
{
    /// <summary>Vendor and device ID.</summary>
    public const uint Identity = 0x11E8_1234;

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

    public void Await()
    {
        long start = TimeProvider.System.GetTimestamp();
        while ((BitConverter.ToUInt64(e.Read(0, CommandRegister, 8)) & 1) != 0)
            Examination.Require(TimeProvider.System.GetElapsedTime(start) < e.Options.ReplyTimeout, "the DMA engine does not finish");
    }

    private void Set(ulong register, ulong value) => e.Write(0, register, BitConverter.GetBytes(value));
}
