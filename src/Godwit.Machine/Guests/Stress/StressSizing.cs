using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>How much memory the program takes for given options: the guest allocates by it, the host checks a configuration with it.</summary>
internal static class StressSizing
{
    public const int FlushEntries = 256;
    public const int ChurnBuffers = 64;

    /// <summary>Queues are one longer than the commands in flight, because a full queue looks empty (NVM Express 1.4, 4.1.2).</summary>
    public static uint QueueEntries(in StressOptions options) => (uint)options.QueueDepth + 1;

    /// <summary>The largest I/O, and one page more for data that does not start at the beginning of a page.</summary>
    public static uint PagesPerSlot(in StressOptions options) => (uint)options.MaxBlocks + 1;

    public static ulong SubmissionBytes(in StressOptions options) => Pages(QueueEntries(options) * (ulong)NvmeRegisters.SubmissionEntrySize);

    public static ulong CompletionBytes(in StressOptions options) => Pages(QueueEntries(options) * (ulong)NvmeRegisters.CompletionEntrySize);

    public static ulong SlotPagesBytes(in StressOptions options) => (ulong)options.QueueDepth * PagesPerSlot(options) * 8;

    /// <summary>
    /// Enough table pages for all IOVAs that can be live: they are handed out densely from the top, so twice their number and some more.
    /// </summary>
    public static uint TablePages(in StressOptions options)
    {
        ulong order = (ulong)IovaAllocator.OrderOf((int)PagesPerSlot(options));
        ulong live = ((ulong)options.QueueDepth + FlushEntries) << (int)order;
        return 128 + (uint)(2 * (live / 512));
    }

    /// <summary>Bytes of the heap for one controller.</summary>
    public static ulong ControllerBytes(in StressOptions options) =>
        (3 * (ulong)RamPage.Size) // admin queues, identify data
        + SubmissionBytes(options) + CompletionBytes(options)
        + ((ulong)options.QueueDepth << RamPage.Shift) // PRP lists
        + Pages((ulong)options.QueueDepth * CommandSlot.Size)
        + Pages(SlotPagesBytes(options))
        + (2 * Pages((ulong)options.QueueDepth * 2))
        + Pages(options.RegionBlocks * 8)
        + Pages(FlushEntries * 8)
        + Pages(ChurnBuffers * ChurnBuffer.Size)
        + VtdUnit.PasidBytes
        + ((options.DomainSwitches > 0 ? 2UL : 1UL) * DomainBytes(options));

    private static ulong DomainBytes(in StressOptions options) =>
        (2 * IovaAllocator.BitmapBytes) + Pages(IovaAllocator.CacheBytes) + ((ulong)TablePages(options) << RamPage.Shift);

    /// <summary>Pages for I/O buffers of all controllers.</summary>
    public static uint BufferPages(in StressOptions options, int controllers) => (uint)controllers
        * (((uint)options.QueueDepth * PagesPerSlot(options) * 2) + (ChurnBuffers * ChurnBuffer.Pages * 2));

    /// <summary>The remapping unit: root table, two pages of context table, queue, wait status, interrupt table.</summary>
    public const ulong UnitBytes = 6 * (ulong)RamPage.Size;

    /// <summary>Bytes of the heap in all: the unit, the buffer stack, the controllers.</summary>
    public static ulong HeapBytes(in StressOptions options, int controllers) =>
        UnitBytes + Pages(BufferPages(options, controllers) * 8UL) + ((ulong)controllers * ControllerBytes(options));

    /// <summary>Host side: whether the program will find room.</summary>
    /// <exception cref="ArgumentException">The machine's memory is too small for the options.</exception>
    public static void Check(in StressOptions options, in BoardLayout layout, int controllers)
    {
        controllers = Math.Min(controllers, StressLayout.MaxControllers);
        ulong heap = HeapBytes(options, controllers);
        ulong low = layout.LowRamSize - StressLayout.Heap.Value;
        if (heap > low)
        {
            throw new ArgumentException(
                $"Guest nvme-stress needs {heap >> 20} MiB below 4 GiB for its queues and tables; with {layout.TotalRam >> 20} MiB of memory there are "
                + $"{low >> 20}. Take more memory or a smaller region, queue-depth or io-size.");
        }

        ulong frames = (layout.TotalRam - StressLayout.Heap.Value - heap) >> RamPage.Shift;
        ulong wanted = BufferPages(options, controllers) + options.WorkingSetPages;
        if (wanted > frames)
        {
            throw new ArgumentException(
                $"Guest nvme-stress needs {wanted >> 8} MiB for buffers and its working set of {options.WorkingSetPages >> 8} MiB; there are "
                + $"{frames >> 8}. Take more memory or a smaller working-set.");
        }
    }

    private static ulong Pages(ulong bytes) => (bytes + RamPage.Size - 1) & ~(ulong)(RamPage.Size - 1);
}
