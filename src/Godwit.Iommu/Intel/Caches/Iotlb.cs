using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// Translations of one device at 4 KiB granularity, direct mapped and of fixed size. A hit takes no lock and allocates nothing: each
/// slot is guarded by a version that is odd while it changes. Fills and invalidations take one short lock; a fill that began before an
/// invalidation is dropped, so a stale translation cannot come back.
/// </summary>
internal sealed class Iotlb
{
    private const int SlotCount = 1024;
    private const ulong Valid = 1UL << 63;

    private readonly Slot[] _slots = new Slot[SlotCount];
    private readonly Lock _change = new();
    private int _generation;

    /// <summary>To be read before a walk and handed to <see cref="Fill"/>.</summary>
    internal int Generation => Volatile.Read(ref _generation);

    /// <summary>Looks up the page of <paramref name="iova"/>.</summary>
    internal bool TryGet(Iova iova, out Gpa output, out AccessRights rights)
    {
        ulong page = iova.Value >> RamPage.Shift;
        ref Slot slot = ref _slots[Index(page)];
        int version = Volatile.Read(ref slot.Version);
        ulong key = Volatile.Read(ref slot.Page);
        ulong data = Volatile.Read(ref slot.Data);
        if ((version & 1) == 0 && key == page && (data & Valid) != 0 && Volatile.Read(ref slot.Version) == version)
        {
            output = new Gpa((data & ~(Valid | 0xFFF)) | (iova.Value & 0xFFF));
            rights = (AccessRights)(data & 3);
            return true;
        }

        output = default;
        rights = AccessRights.None;
        return false;
    }

    /// <summary>Keeps the result of a walk that began at <paramref name="generation"/>.</summary>
    internal void Fill(Iova iova, Gpa output, AccessRights rights, int generation)
    {
        ulong page = iova.Value >> RamPage.Shift;
        lock (_change)
        {
            if (generation == _generation)
                Put(ref _slots[Index(page)], page, (output.Value & ~0xFFFUL) | (ulong)rights | Valid);
        }
    }

    /// <summary>Forgets the pages from <paramref name="first"/> to <paramref name="last"/>.</summary>
    internal void Invalidate(Iova first, Iova last)
    {
        ulong from = first.Value >> RamPage.Shift;
        ulong to = last.Value >> RamPage.Shift;
        lock (_change)
        {
            Volatile.Write(ref _generation, _generation + 1);
            if (to - from >= SlotCount)
            {
                foreach (ref Slot slot in _slots.AsSpan())
                {
                    if (slot.Page >= from && slot.Page <= to)
                        Put(ref slot, 0, 0);
                }

                return;
            }

            for (ulong page = from; page <= to; page++)
            {
                ref Slot slot = ref _slots[Index(page)];
                if (slot.Page == page)
                    Put(ref slot, 0, 0);
            }
        }
    }

    private static int Index(ulong page) => (int)((page ^ (page >> 10)) & (SlotCount - 1));

    private static void Put(ref Slot slot, ulong page, ulong data)
    {
        Volatile.Write(ref slot.Version, slot.Version + 1);
        // The odd version must be seen before the new contents.
        Interlocked.MemoryBarrier();
        Volatile.Write(ref slot.Page, page);
        Volatile.Write(ref slot.Data, data);
        Volatile.Write(ref slot.Version, slot.Version + 1);
    }

    private struct Slot
    {
        internal int Version;
        internal ulong Page;
        internal ulong Data;
    }
}
