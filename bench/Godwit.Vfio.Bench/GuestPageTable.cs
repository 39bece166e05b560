using Godwit.Memory;

namespace Godwit.Vfio.Bench;

/// <summary>The guest's page tables as hardware has them: levels of 512 entries, to be walked by who attributes a log with them.</summary>
internal sealed class GuestPageTable
{
    private const int Fan = 512;
    private readonly List<ulong[]> _tables = [new ulong[Fan]];
    private readonly int _levels;

    public GuestPageTable(Scene scene, int apertureBits)
    {
        _levels = (apertureBits - 12 + 8) / 9;
        ulong pages = Layouts.PagesOf(scene.Layout);
        int leaf = pages == Fan ? 1 : 0;
        for (int i = 0; i < scene.Count; i++)
        {
            int table = 0;
            for (int level = _levels - 1; level > leaf; level--)
            {
                ref ulong entry = ref _tables[table][Index(scene.IovaOf(i), level)];
                if (entry == 0)
                {
                    _tables.Add(new ulong[Fan]);
                    entry = (ulong)(_tables.Count - 1) << 1 | 1;
                }

                table = (int)(entry >> 1);
            }

            _tables[table][Index(scene.IovaOf(i), leaf)] = scene.RamOf(i).Index << 2 | 2 | 1;
        }

        Leaf = leaf;
    }

    private int Leaf { get; }

    /// <summary>Marks every page mapped in a window whose bit is set, by a walk over the tables.</summary>
    public void Attribute(IovaPages window, ReadOnlySpan<ulong> bitmap, DirtyMarker marker) => Walk(0, _levels - 1, 0, window, bitmap, marker);

    private void Walk(int table, int level, ulong first, IovaPages window, ReadOnlySpan<ulong> bitmap, DirtyMarker marker)
    {
        ulong span = 1UL << (9 * level);
        ulong[] entries = _tables[table];
        ulong from = window.First > first ? (window.First - first) / span : 0;
        for (ulong i = from; i < Fan && first + i * span < window.End; i++)
        {
            ulong entry = entries[i];
            if (entry == 0)
                continue;
            ulong page = first + i * span;
            if (level > Leaf)
            {
                Walk((int)(entry >> 1), level - 1, page, window, bitmap, marker);
                continue;
            }

            ulong at = page - window.First;
            if (Leaf == 1)
                marker.Mark(new RamPage(entry >> 2), bitmap.Slice((int)(at / 64), Fan / 64), Fan);
            else if ((bitmap[(int)(at / 64)] >> (int)(at % 64) & 1) != 0)
                marker.Mark(new RamPage(entry >> 2), 1);
        }
    }

    private static int Index(ulong page, int level) => (int)(page >> (9 * level) & (Fan - 1));
}
