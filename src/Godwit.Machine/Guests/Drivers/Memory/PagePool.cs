using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>
/// Free pages for I/O buffers: a stack in guest RAM from which a random one is taken, so that buffers are scattered and keep moving.
/// Free pages carry a tag in every sector; a tag that is gone when the page is taken shows a write through a mapping that had ended.
/// </summary>
internal struct PagePool
{
    private const ulong FreeTag = 0x6672_6565_5041_4745;
    private const int WordsPerTag = 64;

    public Gpa Stack;
    public uint Count;
    public uint Capacity;

    public void Put(GuestBus bus, Gpa page)
    {
        if (Count >= Capacity)
            throw new GuestPanicException($"page pool overflow: {Capacity} pages");
        Span<ulong> words = bus.Words(page, RamPage.Size / sizeof(ulong));
        for (int i = 0; i < words.Length; i += WordsPerTag)
            words[i] = FreeTag ^ page.Value;
        bus.MarkWritten(page, RamPage.Size);
        bus.Store(Stack + (Count * 8UL), page.Value);
        Count++;
    }

    /// <summary>A random page; <paramref name="intact"/> tells whether it is as it was put.</summary>
    public Gpa Take(GuestBus bus, ulong random, out bool intact)
    {
        if (Count == 0 || Count > Capacity)
            throw new GuestPanicException($"page pool has {Count} pages of {Capacity}");
        Gpa slot = Stack + ((uint)(random % Count) * 8UL);
        Count--;
        Gpa top = Stack + (Count * 8UL);
        var page = new Gpa(bus.Load<ulong>(slot));
        bus.Store(slot, bus.Load<ulong>(top));

        ReadOnlySpan<ulong> words = bus.Words(page, RamPage.Size / sizeof(ulong));
        intact = true;
        for (int i = 0; i < words.Length; i += WordsPerTag)
            intact &= words[i] == (FreeTag ^ page.Value);
        return page;
    }
}
