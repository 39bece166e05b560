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
/// fails in the device. What is one too many waits until there is room. How much is remembered is bounded because the guest chooses it. Guarded by its
/// owner's gate.
/// </summary>
/// <param name="waiting">
/// Mappings that wait at most: more than the device takes, so that a guest which exchanges all for others ends with all of them, in whatever order
/// they come, and one that has mapped too much is rid of it when it removes it piece by piece.
/// </param>
internal sealed class NotInstalled(int waiting)
{
    /// <summary>Ranges remembered at most, beside those that wait; ours, 1.5 MiB of table.</summary>
    internal const int Limit = 65536;

    private readonly PageRangeMap _map = new();
    private readonly MappingTable _waiting = new();
    private int _refused; // of the map
    private ulong _forgottenFirst = ulong.MaxValue, _forgottenEnd; // all that is not remembered lies between

    /// <summary>Ranges remembered.</summary>
    public int Count => _map.Count + _waiting.Count;

    /// <summary>
    /// Ranges that were not remembered because there were too many, until the guest removes all where they are at once. They are not installed when
    /// there is room, and counted again when they are mapped again.
    /// </summary>
    public long Forgotten { get; private set; }

    /// <summary>Of those, mappings of RAM.</summary>
    public long ForgottenRefused { get; private set; }

    /// <summary>Mappings of RAM that the device could not or would not take.</summary>
    public long Refused => _refused + _waiting.Count + ForgottenRefused;

    /// <summary>Whether a mapping waits.</summary>
    public bool AnyWaits => _waiting.Count > 0;

    /// <summary>Remembers a range that is not installed for another reason than the device's limit, instead of whatever was remembered there.</summary>
    public void Add(IovaPages range, NotInstalledReason reason)
    {
        Remove(range);
        if (_map.Count >= Limit || !_map.TryInsert(range, (ulong)reason))
            Forget(range, reason == NotInstalledReason.Refused);
        else if (reason == NotInstalledReason.Refused)
            _refused++;
    }

    /// <summary>Has <paramref name="mapping"/> wait for room, instead of whatever was remembered there. False: too many wait, it is forgotten.</summary>
    public bool AddWaiting(in Mapping mapping)
    {
        Remove(mapping.Iova);
        return TryWait(mapping);
    }

    /// <summary>Takes out one that waits, the lowest.</summary>
    public bool TryTakeWaiting(out Mapping mapping) => _waiting.TryTakeFirst(new IovaPages(0, IovaPages.SpacePages), out mapping);

    /// <summary>Forgets everything that has a page in <paramref name="range"/>; of a mapping that waits, what is in the range.</summary>
    public void Remove(IovaPages range)
    {
        while (_map.TryTakeFirst(range, out _, out ulong reason))
            _refused -= (NotInstalledReason)reason == NotInstalledReason.Refused ? 1 : 0;
        while (_waiting.TryTakeFirst(range, out Mapping mapping))
        {
            if (mapping.Iova.First < range.First)
                TryWait(mapping.Part(mapping.Iova.First, range.First));
            if (mapping.Iova.End > range.End)
                TryWait(mapping.Part(range.End, mapping.Iova.End));
        }

        if (Forgotten != 0 && range.First <= _forgottenFirst && range.End >= _forgottenEnd)
            ForgetForgotten();
    }

    /// <summary>Why <paramref name="page"/> is not installed; null when it is not remembered.</summary>
    public NotInstalledReason? Find(ulong page)
    {
        MappingTable.Cursor waits = _waiting.Seek(page);
        if (waits.MoveNext() && waits.First <= page)
            return NotInstalledReason.LimitReached;
        PageRangeMap.Cursor cursor = _map.Seek(page);
        return cursor.MoveNext() && cursor.Current.First <= page ? (NotInstalledReason)cursor.Current.Value : null;
    }

    /// <summary>The first range remembered that this device could not or would not take, though it is RAM.</summary>
    public bool TryFindRefused(out IovaPages range, out NotInstalledReason reason)
    {
        MappingTable.Cursor waits = _waiting.Seek(0);
        if (waits.MoveNext())
        {
            (range, reason) = (waits.Current.Iova, NotInstalledReason.LimitReached);
            return true;
        }

        PageRangeMap.Cursor cursor = _map.Seek(0);
        while (_refused != 0 && cursor.MoveNext())
        {
            reason = (NotInstalledReason)cursor.Current.Value;
            if (reason == NotInstalledReason.Refused)
            {
                range = cursor.Current.Range;
                return true;
            }
        }

        (range, reason) = (default, default);
        return false;
    }

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        _map.Clear();
        _waiting.Clear();
        _refused = 0;
        ForgetForgotten();
    }

    private bool TryWait(in Mapping mapping)
    {
        if (_waiting.Count < waiting && _waiting.TryInsert(mapping))
            return true;
        Forget(mapping.Iova, refused: true);
        return false;
    }

    private void Forget(IovaPages range, bool refused)
    {
        Forgotten++;
        ForgottenRefused += refused ? 1 : 0;
        _forgottenFirst = Math.Min(_forgottenFirst, range.First);
        _forgottenEnd = Math.Max(_forgottenEnd, range.End);
    }

    private void ForgetForgotten()
    {
        (Forgotten, ForgottenRefused) = (0, 0);
        (_forgottenFirst, _forgottenEnd) = (ulong.MaxValue, 0);
    }
}
