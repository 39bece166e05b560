using System.Numerics;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>
/// IOVA space of one domain, handed out the way Linux does (as observed): aligned to its own size rounded up to a power of two, downwards
/// from the top of 32 bits, and what was freed last is used again at once, from a small cache per size. Above 4 GiB only when nothing is
/// left below. The bitmaps (1: taken) and caches lie in guest RAM.
/// </summary>
internal struct IovaAllocator
{
    /// <summary>Largest order: 2^9 pages hold the largest I/O with an offset.</summary>
    public const int MaxOrder = 9;

    public const ulong ArenaPages = 1 << 20;
    public const ulong BitmapBytes = ArenaPages / 8;
    public const ulong CacheBytes = (ulong)CachedOrders * CacheStride;

    private const int CachedOrders = 6;
    private const int CacheEntries = 127;
    private const int CacheStride = (CacheEntries + 1) * 8;
    private const int WordBits = 64;
    private const int Words = (int)(ArenaPages / WordBits);

    public Gpa LowBitmap;
    public Gpa HighBitmap;
    public Gpa Caches;

    /// <summary>First page number of the high arena: the 4 GiB at the top of the domain.</summary>
    public ulong HighBase;

    /// <summary>Search continues downwards from here.</summary>
    public uint LowCursor;
    public uint HighCursor;

    /// <summary>Pages handed out now, caches not counted.</summary>
    public ulong Live;

    /// <summary>Takes over zeroed memory; page 0 is never handed out.</summary>
    public static IovaAllocator Create(GuestBus bus, Gpa lowBitmap, Gpa highBitmap, Gpa caches, int addressBits)
    {
        bus.Fill(lowBitmap, BitmapBytes, 0);
        bus.Fill(highBitmap, BitmapBytes, 0);
        bus.Fill(caches, CacheBytes, 0);
        var result = new IovaAllocator
        {
            LowBitmap = lowBitmap,
            HighBitmap = highBitmap,
            Caches = caches,
            HighBase = (1UL << (addressBits - RamPage.Shift)) - ArenaPages,
            LowCursor = (uint)ArenaPages,
            HighCursor = (uint)ArenaPages,
        };
        result.Reserve(bus, 0, 1);
        return result;
    }

    /// <summary>Order of an allocation of <paramref name="pages"/> pages.</summary>
    public static int OrderOf(int pages) => pages <= 1 ? 0 : BitOperations.Log2((uint)pages - 1) + 1;

    /// <summary>Keeps page numbers below 4 GiB from being handed out (windows that mean something else on the bus).</summary>
    public readonly void Reserve(GuestBus bus, ulong firstPage, ulong pages)
    {
        ulong end = Math.Min(firstPage + pages, ArenaPages);
        for (ulong page = firstPage; page < end;)
        {
            ulong count = Math.Min(WordBits - (page % WordBits), end - page);
            ulong mask = (count == WordBits ? ulong.MaxValue : (1UL << (int)count) - 1) << (int)(page % WordBits);
            Gpa word = LowBitmap + (page / WordBits * 8);
            bus.Store(word, bus.Load<ulong>(word) | mask);
            page += count;
        }
    }

    /// <summary>2^order pages.</summary>
    /// <exception cref="GuestPanicException">Nothing left, or the structures in RAM are damaged.</exception>
    public Iova Allocate(GuestBus bus, int order)
    {
        if ((uint)order > MaxOrder)
            throw new GuestPanicException($"IOVA order {order} is above {MaxOrder}");
        Live += 1UL << order;
        if (order < CachedOrders && TryPop(bus, order, out ulong page))
            return new Iova(page << RamPage.Shift);
        if (TrySearch(bus, LowBitmap, ref LowCursor, order, out page))
            return new Iova(page << RamPage.Shift);

        // Linux, too, empties its caches before it gives up on the 32-bit space.
        Flush(bus);
        if (TrySearch(bus, LowBitmap, ref LowCursor, order, out page))
            return new Iova(page << RamPage.Shift);
        if (TrySearch(bus, HighBitmap, ref HighCursor, order, out page))
            return new Iova((HighBase + page) << RamPage.Shift);
        throw new GuestPanicException($"IOVA space exhausted: order {order}, {Live} pages live");
    }

    /// <summary>Gives back what <see cref="Allocate"/> returned for the same order.</summary>
    public void Free(GuestBus bus, Iova iova, int order)
    {
        if ((uint)order > MaxOrder)
            throw new GuestPanicException($"IOVA order {order} is above {MaxOrder}");
        Live -= 1UL << order;
        ulong page = iova.Value >> RamPage.Shift;
        if (order >= CachedOrders || !TryPush(bus, order, page))
            Clear(bus, page, order);
    }

    private readonly bool TryPop(GuestBus bus, int order, out ulong page)
    {
        Gpa cache = Caches + (ulong)(order * CacheStride);
        ulong count = bus.Load<ulong>(cache);
        page = 0;
        if (count is 0 or > CacheEntries)
            return false;
        page = bus.Load<ulong>(cache + (count * 8));
        bus.Store(cache, count - 1);
        return true;
    }

    private readonly bool TryPush(GuestBus bus, int order, ulong page)
    {
        Gpa cache = Caches + (ulong)(order * CacheStride);
        ulong count = bus.Load<ulong>(cache);
        if (count >= CacheEntries)
            return false;
        bus.Store(cache + ((count + 1) * 8), page);
        bus.Store(cache, count + 1);
        return true;
    }

    private void Flush(GuestBus bus)
    {
        for (int order = 0; order < CachedOrders; order++)
        {
            while (TryPop(bus, order, out ulong page))
                Clear(bus, page, order);
        }
    }

    private void Clear(GuestBus bus, ulong page, int order)
    {
        bool high = page >= HighBase;
        ulong index = high ? page - HighBase : page;
        ulong pages = 1UL << order;
        if (index >= ArenaPages || index % pages != 0)
            throw new GuestPanicException($"IOVA page 0x{page:x} of order {order} was never handed out");

        Gpa word = (high ? HighBitmap : LowBitmap) + (index / WordBits * 8);
        if (order >= 6)
        {
            for (ulong i = 0; i < pages / WordBits; i++)
                bus.Store(word + (i * 8), 0UL);
        }
        else
        {
            bus.Store(word, bus.Load<ulong>(word) & ~(Mask(order) << (int)(index % WordBits)));
        }

        ref uint cursor = ref high ? ref HighCursor : ref LowCursor;
        cursor = Math.Max(cursor, (uint)(index + pages));
    }

    /// <summary>First below the cursor, then, when that is used up, once more from the top.</summary>
    private static bool TrySearch(GuestBus bus, Gpa bitmap, ref uint cursor, int order, out ulong page)
    {
        if (!TrySearchBelow(bus, bitmap, Math.Min(cursor, (uint)ArenaPages), order, out page)
            && !TrySearchBelow(bus, bitmap, (uint)ArenaPages, order, out page))
        {
            return false;
        }

        cursor = (uint)page;
        return true;
    }

    private static bool TrySearchBelow(GuestBus bus, Gpa bitmap, uint end, int order, out ulong page)
    {
        Span<ulong> words = bus.Words(bitmap, Words);
        int size = 1 << order;
        page = 0;
        if (order >= 6)
        {
            int step = size / WordBits;
            for (int word = ((int)end / size * step) - step; word >= 0; word -= step)
            {
                if (words.Slice(word, step).ContainsAnyExcept(0UL))
                    continue;
                words.Slice(word, step).Fill(ulong.MaxValue);
                bus.MarkWritten(bitmap + ((ulong)word * 8), (ulong)step * 8);
                page = (ulong)word * WordBits;
                return true;
            }

            return false;
        }

        ulong mask = Mask(order);
        int limit = (int)end; // allocations must end at or below this page
        for (int word = (limit - 1) / WordBits; word >= 0 && limit > 0; word--)
        {
            ulong taken = words[word];
            if (taken != ulong.MaxValue)
            {
                int inWord = Math.Min(limit - (word * WordBits), WordBits);
                for (int bit = (inWord / size * size) - size; bit >= 0; bit -= size)
                {
                    if ((taken & (mask << bit)) != 0)
                        continue;
                    bus.Store(bitmap + ((ulong)word * 8), taken | (mask << bit));
                    page = (ulong)((word * WordBits) + bit);
                    return true;
                }
            }

            limit = word * WordBits;
        }

        return false;
    }

    private static ulong Mask(int order) => order == 6 ? ulong.MaxValue : (1UL << (1 << order)) - 1;
}
