namespace Godwit.Vfio;

/// <summary>
/// Mappings that are out of the host while their bits may still be in the device's log (dirty-tracking rule 5). Several may have had the same IOVA, one
/// after the other: a set bit there counts for all of them, so an IOVA may be used again at once and nothing need be asked of the device before.
/// Guarded by the gate of the device's mappings.
/// </summary>
internal sealed class HarvestQueue
{
    /// <summary>Mappings that can have had one IOVA since the last report; whoever comes later counts as written.</summary>
    internal const int Depth = 4;

    /// <summary>Mappings that wait at most, because the guest chooses how many: 4 MiB of tables at the worst.</summary>
    internal const int DefaultLimit = 65536;

    private readonly MappingTable[] _layers = [.. Enumerable.Range(0, Depth).Select(_ => new MappingTable())];

    /// <summary>Mappings that wait. Any thread.</summary>
    public int Count
    {
        get
        {
            int count = 0;
            foreach (MappingTable layer in _layers)
                count += layer.Count;
            return count;
        }
    }

    /// <summary>Pages of them: as many may be marked when they are looked at.</summary>
    public ulong Pages { get; private set; }

    /// <summary>Tables in which no two mappings overlap.</summary>
    public ReadOnlySpan<MappingTable> Layers => _layers;

    /// <summary>Takes a mapping that is out of the host; false when there is no room for it.</summary>
    public bool TryAdd(in Mapping mapping, int limit)
    {
        if (Count >= limit)
            return false;
        foreach (MappingTable layer in _layers)
        {
            if (layer.TryInsert(mapping))
            {
                Pages += mapping.Iova.Count;
                return true;
            }

            if (layer.Contains(mapping))
                return true;
        }

        return false;
    }

    /// <summary>Forgets all.</summary>
    public void Clear()
    {
        Pages = 0;
        foreach (MappingTable layer in _layers)
        {
            if (layer.RunCount > 0)
                layer.Clear();
        }
    }
}
