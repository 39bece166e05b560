namespace Godwit.Devices;

/// <summary>A contiguous piece of bus addresses.</summary>
internal readonly record struct DmaSegment(ulong Address, int Length);

/// <summary>The data of one command as bus addresses, neighbours merged. Reused from command to command.</summary>
internal sealed class DmaSegments(int capacity)
{
    private readonly DmaSegment[] _items = new DmaSegment[capacity];

    /// <summary>Number of segments.</summary>
    public int Count { get; private set; }

    /// <summary>The segment at <paramref name="index"/>.</summary>
    public DmaSegment this[int index] => _items[index];

    /// <summary>Forgets all.</summary>
    public void Clear() => Count = 0;

    /// <summary>Appends; the piece does not wrap.</summary>
    public void Add(ulong address, int length)
    {
        if (Count > 0)
        {
            ref DmaSegment last = ref _items[Count - 1];
            // Unsigned wrap to 0 is no neighbour of address 0.
            if (address != 0 && last.Address + (ulong)last.Length == address)
            {
                last = last with { Length = last.Length + length };
                return;
            }
        }
        _items[Count++] = new DmaSegment(address, length);
    }
}
