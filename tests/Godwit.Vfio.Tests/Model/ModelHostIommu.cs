using System.Numerics;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>How a <see cref="ModelHostIommu"/> is limited and what goes wrong in it.</summary>
internal sealed record ModelHostIommuTraits
{
    public HostIommuShape Shape { get; init; }

    /// <summary>Pages of 4 KiB in a bit of its bitmaps, and the alignment of its mappings.</summary>
    public ulong GranulePages { get; init; } = 1;

    /// <summary>Bits of one bitmap at most.</summary>
    public ulong MaxBitmapBits { get; init; } = ulong.MaxValue;

    /// <summary>Largest page of its tables, in 4 KiB pages; a dirty bit is that of a page of the table.</summary>
    public ulong LargestIoPage { get; init; } = 1;

    /// <summary>False: says of everything mapped for writing that it is dirty.</summary>
    public bool TracksWrites { get; init; } = true;

    /// <summary>Chance, in percent, that a query fails.</summary>
    public int QueryFailsPercent { get; init; }

    /// <summary>Once a query has failed, all fail until the bits are set anew.</summary>
    public bool FailureSticks { get; init; }

    public int MaxMappings { get; init; } = 65535;
}

/// <summary>
/// A host IOMMU with the kernel's rules: mappings come and go whole; a dirty bit belongs to a page of the table and dies with its mapping; type1
/// refuses to cut a mapping, iommufd refuses a hole; bitmaps have a limit. A device behind it writes through what is mapped, until the unmap is over.
/// Nothing of the room under test is used in it.
/// </summary>
internal sealed class ModelHostIommu(ModelHostIommuTraits traits, Random random) : IDmaMapper, IHostIommu
{
    private readonly SortedList<ulong, (ulong Pages, RamPage Ram, bool Writable)> _mappings = [];
    private readonly HashSet<ulong> _dirty = []; // first 4 KiB pages of dirty table pages
    private readonly List<(int Operation, Errno Errno)> _failures = [];
    private int _operations;
    private bool _tracking, _broken;

    /// <summary>Called where a device may do DMA of its own: between operations, and before a query.</summary>
    public Action? Meanwhile { get; set; }

    /// <summary>Called when an unmap has begun: a device may still write through the mapping.</summary>
    public Action<IovaPages>? Leaving { get; set; }

    /// <summary>Called for each page that a DMA wrote, with its RAM page.</summary>
    public Action<RamPage>? Wrote { get; set; }

    /// <summary>Everything asked of it, one line each; only while not null.</summary>
    public List<string>? Calls { get; set; }

    /// <summary>Decides whether a map is refused, and how.</summary>
    public Func<IovaPages, Errno>? RefuseMap { get; set; }

    public HostIommuTraits Traits { get; } = new()
    {
        Shape = traits.Shape,
        PageBytes = traits.GranulePages << RamPage.Shift,
        MaxBitmapBits = traits.MaxBitmapBits,
        TracksWrites = traits.TracksWrites,
    };

    public int MaxMappings => traits.MaxMappings;

    /// <summary>What is mapped, ascending.</summary>
    public IReadOnlyList<Mapping> Mappings => [.. _mappings.Select(m => new Mapping(new IovaPages(m.Key, m.Value.Pages), m.Value.Ram, m.Value.Writable))];

    /// <summary>The device writes into the page at an IOVA; false when it faults.</summary>
    public bool Dma(ulong iovaPage)
    {
        if (!TryFind(iovaPage, out ulong first, out var mapping) || !mapping.Writable)
            return false;
        Wrote?.Invoke(mapping.Ram + (iovaPage - first));
        if (_tracking)
            _dirty.Add(TablePage(iovaPage, first, mapping.Pages).First);
        return true;
    }

    /// <summary>Any page that it may write now, by IOVA; null when there is none.</summary>
    public ulong? AnyWritable(Random choice)
    {
        if (_mappings.Count == 0)
            return null;
        int at = choice.Next(_mappings.Count);
        (ulong pages, _, bool writable) = _mappings.GetValueAtIndex(at);
        return writable ? _mappings.GetKeyAtIndex(at) + (ulong)choice.NextInt64((long)pages) : null;
    }

    public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable)
    {
        Begin($"map {iova} {(writable ? "rw" : "r")}");
        if (RefuseMap?.Invoke(iova) is { } errno and not Errno.None)
        {
            _failures.Add((_operations - 1, errno));
            return;
        }

        if (((iova.First | iova.Count) & (traits.GranulePages - 1)) != 0)
        {
            _failures.Add((_operations - 1, Errno.EINVAL));
            return;
        }

        Assert.False(Overlapping(iova).Any(), $"{iova} is mapped over another mapping");
        Assert.True(_mappings.Count < traits.MaxMappings, "mapped beyond the limit");
        _mappings.Add(iova.First, (iova.Count, block.FirstPage + (offset >> RamPage.Shift), writable));
    }

    public void QueueUnmap(IovaPages iova)
    {
        Begin($"unmap {iova}");
        Leaving?.Invoke(iova);
        Remove(iova);
    }

    public void UnmapWithDirty(IovaPages mapping, Span<ulong> bitmap)
    {
        Begin($"unmap {mapping} with bitmap");
        Assert.Equal(HostIommuShape.UnmapWithBitmap, traits.Shape);
        Leaving?.Invoke(mapping);
        if (!_tracking || mapping.Count / traits.GranulePages > traits.MaxBitmapBits)
        {
            _failures.Add((_operations - 1, Errno.EINVAL));
            return;
        }

        if (_mappings.ContainsKey(mapping.First))
            Read(mapping, bitmap);
        Remove(mapping);
    }

    public void Flush(List<DmaFailure> failures)
    {
        foreach ((int operation, Errno errno) in _failures)
            failures.Add(new DmaFailure(operation, errno));
        _failures.Clear();
        _operations = 0;
    }

    public void StartDirtyTracking()
    {
        Calls?.Add("start");
        if (_tracking)
            throw new DeviceRefusedException("start of dirty tracking", Errno.EINVAL);
        (_tracking, _broken) = (true, false);
        _dirty.Clear();
    }

    public void StopDirtyTracking()
    {
        Calls?.Add("stop");
        _tracking = false;
        _dirty.Clear();
    }

    public void QueryDirty(IovaPages range, Span<ulong> bitmap)
    {
        Meanwhile?.Invoke();
        Calls?.Add($"query {range}");
        Assert.True((ulong)bitmap.Length * 64 >= range.Count / traits.GranulePages, "the bitmap is too short");
        Assert.Equal(0UL, (range.First | range.Count) & (traits.GranulePages - 1));
        if (!_tracking || range.Count / traits.GranulePages > traits.MaxBitmapBits)
            throw new DeviceRefusedException("a query", Errno.EINVAL);
        if (traits.Shape == HostIommuShape.UnmapWithBitmap ? Cuts(range) : HasHole(range))
            throw new DeviceRefusedException("a query", Errno.EINVAL);
        if (_broken || random.Next(100) < traits.QueryFailsPercent)
        {
            _broken = traits.FailureSticks;
            throw new DeviceRefusedException("a query", Errno.EIO);
        }

        Read(range, bitmap);
    }

    /// <summary>Whether the dirty bit of a 4 KiB page is set.</summary>
    public bool IsDirty(ulong iovaPage) =>
        TryFind(iovaPage, out ulong first, out var mapping) && _dirty.Contains(TablePage(iovaPage, first, mapping.Pages).First);

    private void Begin(string call)
    {
        Meanwhile?.Invoke();
        Calls?.Add(call);
        _operations++;
    }

    private void Remove(IovaPages iova)
    {
        if (!_mappings.TryGetValue(iova.First, out var mapping) || mapping.Pages != iova.Count)
        {
            _failures.Add((_operations - 1, Errno.ENOENT));
            return;
        }

        _mappings.Remove(iova.First);
        _dirty.RemoveWhere(p => p >= iova.First && p < iova.End);
    }

    private void Read(IovaPages range, Span<ulong> bitmap)
    {
        foreach ((ulong first, (ulong pages, _, bool writable)) in Overlapping(range).ToList())
        {
            for (ulong page = first; page < first + pages;)
            {
                IovaPages table = TablePage(page, first, pages);
                page = table.End;
                if (!table.Overlaps(range) || !(_dirty.Contains(table.First) || (writable && !traits.TracksWrites)))
                    continue;
                // The bit of the whole page is cleared, although only what lies in the range is told.
                _dirty.Remove(table.First);
                for (ulong p = Math.Max(table.First, range.First); p < Math.Min(table.End, range.End); p++)
                {
                    ulong bit = (p - range.First) / traits.GranulePages;
                    bitmap[(int)(bit / 64)] |= 1UL << (int)(bit % 64);
                }
            }
        }
    }

    private bool Cuts(IovaPages range) => Overlapping(range).Any(m => m.Key < range.First || m.Key + m.Value.Pages > range.End);

    private bool HasHole(IovaPages range)
    {
        ulong at = range.First;
        foreach ((ulong first, (ulong pages, _, _)) in Overlapping(range))
        {
            if (first > at)
                return true;
            at = first + pages;
        }

        return at < range.End;
    }

    private IEnumerable<KeyValuePair<ulong, (ulong Pages, RamPage Ram, bool Writable)>> Overlapping(IovaPages range) =>
        _mappings.Where(m => m.Key < range.End && range.First < m.Key + m.Value.Pages);

    private bool TryFind(ulong page, out ulong first, out (ulong Pages, RamPage Ram, bool Writable) mapping)
    {
        foreach ((ulong key, var value) in _mappings)
        {
            if (key <= page && page < key + value.Pages)
            {
                (first, mapping) = (key, value);
                return true;
            }
        }

        (first, mapping) = (0, default);
        return false;
    }

    /// <summary>The page of the table that holds a 4 KiB page: the largest aligned one that fits into the mapping.</summary>
    private IovaPages TablePage(ulong page, ulong first, ulong pages)
    {
        for (ulong size = BitOperations.RoundUpToPowerOf2(traits.LargestIoPage); size > traits.GranulePages; size /= 2)
        {
            ulong start = page / size * size;
            if (start >= first && start + size <= first + pages)
                return new IovaPages(start, size);
        }

        return new IovaPages(page / traits.GranulePages * traits.GranulePages, traits.GranulePages);
    }
}
