using System.Numerics;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>What page tables say, page by page: flat, so that an edit costs a few nanoseconds. Not thread-safe.</summary>
internal sealed class GuestTables(ulong pages)
{
    private readonly (ulong GpaPage, AccessRights Rights)[] _entries = new (ulong, AccessRights)[pages];
    private readonly ulong[] _present = new ulong[(pages + 63) / 64];

    /// <summary>The entry of a page that has one.</summary>
    public (ulong GpaPage, AccessRights Rights) this[ulong page]
    {
        get => Has(page) ? _entries[page] : throw new KeyNotFoundException();
        set
        {
            _entries[page] = value;
            _present[page / 64] |= 1UL << (int)(page % 64);
        }
    }

    /// <summary>Whether a page has an entry.</summary>
    public bool Has(ulong page) => (_present[page / 64] >> (int)(page % 64) & 1) != 0;

    /// <summary>Removes an entry, if there is one.</summary>
    public void Remove(ulong page) => _present[page / 64] &= ~(1UL << (int)(page % 64));

    /// <summary>Removes all.</summary>
    public void Clear() => Array.Clear(_present);

    /// <summary>The first page from <paramref name="page"/> on that has an entry, or <paramref name="end"/>.</summary>
    public ulong Next(ulong page, ulong end)
    {
        while (page < end)
        {
            ulong word = _present[page / 64] >> (int)(page % 64);
            if (word != 0)
                return Math.Min(page + (ulong)BitOperations.TrailingZeroCount(word), end);
            page = (page / 64 + 1) * 64;
        }

        return end;
    }
}
