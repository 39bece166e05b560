namespace Godwit.Vfio;

/// <summary>Why a guest mapping is not in the device.</summary>
internal enum NotInstalledReason
{
    /// <summary>Its target is no RAM: a BAR, or nothing at all.</summary>
    NotRam,

    /// <summary>It is not made of whole 4 KiB pages.</summary>
    Unaligned,

    /// <summary>The device's limit of mappings is reached.</summary>
    LimitReached,

    /// <summary>The device refused it.</summary>
    Refused,
}

/// <summary>
/// The guest's mappings that are <b>not</b> in the device, so that they can be counted and forgotten when the guest removes them. DMA there
/// fails in the device. The number of remembered ranges is bounded because the guest chooses it. Guarded by its owner's gate.
/// </summary>
internal sealed class NotInstalled
{
    /// <summary>Ranges remembered at most; ours, 1.5 MiB of table.</summary>
    internal const int Limit = 65536;

    private readonly PageRangeMap _map = new();

    /// <summary>Ranges remembered.</summary>
    public int Count => _map.Count;

    /// <summary>Ranges that were not remembered because of <see cref="Limit"/>.</summary>
    public long Forgotten { get; private set; }

    /// <summary>Remembers a range, instead of whatever was remembered there.</summary>
    public void Add(IovaPages range, NotInstalledReason reason)
    {
        Remove(range);
        if (_map.Count >= Limit || !_map.TryInsert(range, (ulong)reason))
            Forgotten++;
    }

    /// <summary>Forgets everything that has a page in <paramref name="range"/>.</summary>
    public void Remove(IovaPages range)
    {
        while (_map.TryTakeFirst(range, out _, out _))
        {
        }
    }

    /// <summary>Why <paramref name="page"/> is not installed; null when it is not remembered.</summary>
    public NotInstalledReason? Find(ulong page)
    {
        PageRangeMap.Cursor cursor = _map.Seek(page);
        return cursor.MoveNext() && cursor.Current.First <= page ? (NotInstalledReason)cursor.Current.Value : null;
    }

    /// <summary>The first range remembered that this device could not or would not take, though it is RAM.</summary>
    public bool TryFindRefused(out IovaPages range, out NotInstalledReason reason)
    {
        PageRangeMap.Cursor cursor = _map.Seek(0);
        while (cursor.MoveNext())
        {
            reason = (NotInstalledReason)cursor.Current.Value;
            if (reason is NotInstalledReason.LimitReached or NotInstalledReason.Refused)
            {
                range = cursor.Current.Range;
                return true;
            }
        }

        (range, reason) = (default, default);
        return false;
    }

    /// <summary>Forgets everything.</summary>
    public void Clear() => _map.Clear();
}
