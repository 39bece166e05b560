using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Makes a device that it knows write to memory.</summary>
internal interface IExaminerDriver
{
    /// <summary>A driver for the device, or null.</summary>
    static IExaminerDriver? For(Examination e) => (e.Config(0, 4), e.Config(8, 4) >> 8) switch
    {
        (EduExaminerDriver.Identity, _) => new EduExaminerDriver(e),
        (_, NvmeExaminerDriver.ClassCode) => new NvmeExaminerDriver(e),
        _ => null,
    };

    /// <summary>Sets the device up.</summary>
    /// <param name="memory">Memory that the device reaches.</param>
    /// <param name="queues">16 pages of it for the driver.</param>
    void Start(ExaminerMemory memory, ulong queues);

    /// <summary>Has the device write all of the page at <paramref name="address"/>, with something else than 0xA5 in front.</summary>
    void Begin(ulong address);

    /// <summary>Gives registers of BAR 0 other contents than after a reset, without starting anything.</summary>
    void Mark();

    /// <summary>Those registers, with their sizes in bytes: they are as they were after a migration.</summary>
    IReadOnlyList<(ulong Offset, int Size)> Marked { get; }

    /// <summary>Waits until that is done.</summary>
    void Await();
}

/// <summary>The memory of an examination by the device's addresses.</summary>
internal sealed unsafe class ExaminerMemory(MemoryMapping mapping, ulong start)
{
    /// <summary>Bytes at an address.</summary>
    public Span<byte> At(ulong address, int length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(address - start + (ulong)length, mapping.Length);
        // SAFETY: inside the mapping, checked above; its owner outlives the driver.
        return new Span<byte>(mapping.Address + (address - start), length);
    }
}
