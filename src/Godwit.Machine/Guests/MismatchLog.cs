using System.Runtime.InteropServices;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests;

/// <summary>What was not as it must be.</summary>
internal enum MismatchKind : uint
{
    None,
    BlockContent,
    BlockNotWrittenByDevice,
    WorkingSetPage,
    FreePageWritten,
    CommandFailed,
    UnexpectedCompletion,
    LostInterrupt,
    ControllerGone,
    IommuFault,
    DmaContent,
    WriteAfterUnmap,
    WrongResult,
}

/// <summary>One entry of the log.</summary>
[StructLayout(LayoutKind.Sequential, Size = 64)]
internal struct MismatchRecord
{
    public MismatchKind Kind;
    public uint Controller;
    public ulong Place;
    public ulong Expected;
    public ulong Actual;
    public ulong Where;
    public ulong Detail;
    public ulong Clock;
}

/// <summary>The first 63 mismatches, in guest RAM at <see cref="GuestLayout.Log"/>: a count, then the records.</summary>
internal static class MismatchLog
{
    public const int Capacity = 63;
    private const int RecordSize = 64;

    public static void Add(GuestBus bus, in MismatchRecord record)
    {
        uint count = bus.Load<uint>(GuestLayout.Log);
        if (count >= Capacity)
            return;
        bus.Store(GuestLayout.Log + ((count + 1) * (ulong)RecordSize), record);
        bus.Store(GuestLayout.Log, count + 1);
    }

    /// <summary>Host side: the records as text, whatever RAM holds.</summary>
    public static IReadOnlyList<string> Describe(GuestBus memory)
    {
        Span<byte> bytes = stackalloc byte[(Capacity + 1) * RecordSize];
        if (!memory.TryRead(GuestLayout.Log, bytes))
            return [];
        uint count = Math.Min(MemoryMarshal.Read<uint>(bytes), Capacity);
        var result = new List<string>((int)count);
        for (int i = 1; i <= count; i++)
            result.Add(Describe(MemoryMarshal.Read<MismatchRecord>(bytes[(i * RecordSize)..])));
        return result;
    }

    private static string Describe(in MismatchRecord r)
    {
        string text = r.Kind switch
        {
            MismatchKind.BlockContent =>
                $"block {r.Place} (sector {r.Detail}): expected generation {r.Expected}, found {r.Actual}, in page 0x{r.Where:x}",
            MismatchKind.BlockNotWrittenByDevice =>
                $"block {r.Place} (sector {r.Detail}): expected generation {r.Expected}, but the device wrote nothing into page 0x{r.Where:x}",
            MismatchKind.WorkingSetPage =>
                $"page {r.Place} of the working set at 0x{r.Where:x}: expected sweep {r.Expected}, found {r.Actual}",
            MismatchKind.FreePageWritten => $"free page 0x{r.Where:x} was written by somebody",
            MismatchKind.CommandFailed => $"command {r.Detail} on block {r.Place} failed with status 0x{r.Actual:x3}",
            MismatchKind.UnexpectedCompletion => $"completion for command id {r.Actual}, which is not in flight",
            MismatchKind.LostInterrupt => $"a completion waited {r.Detail / 1_000_000} ms without an interrupt",
            MismatchKind.ControllerGone => "the controller is gone: its registers read all ones",
            MismatchKind.IommuFault => $"IOMMU fault: address 0x{r.Where:x}, record 0x{r.Actual:x16}",
            MismatchKind.DmaContent =>
                $"page {r.Place} at 0x{r.Where:x}: expected generation {r.Expected}, found {r.Actual}, {(r.Detail == 0 ? "at rest" : "after a transfer")}",
            MismatchKind.WriteAfterUnmap => $"page {r.Place} at 0x{r.Where:x} was written after its unmap was complete",
            MismatchKind.WrongResult => $"factorial of {r.Place}: expected {r.Expected}, found {r.Actual}",
            _ => $"record of unknown kind {(uint)r.Kind}",
        };
        return $"controller {r.Controller}: {text}, at {r.Clock / 1_000_000} ms of guest time";
    }
}
