using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>The invalidation queue as IQA said when QIE was set (VT-d 6.5.2, 11.4.9.3); the default when it is off.</summary>
internal readonly record struct LatchedQueue
{
    // IQA with this bit, which no queue address has: on.
    private const ulong On = 1UL << 3;

    private readonly ulong _value;

    private LatchedQueue(ulong value) => _value = value;

    internal static LatchedQueue At(ulong queueAddress) => new(queueAddress | On);

    internal bool IsOn => _value != 0;

    internal ulong Base => _value & QueueAddressBits.BaseMask;

    /// <summary>Descriptors have 256 bits, not 128.</summary>
    internal bool IsWide => (_value & QueueAddressBits.Wide) != 0;

    /// <summary>log2 of a descriptor's bytes.</summary>
    internal int Shift => IsWide ? 5 : 4;

    /// <summary>Descriptors in the ring; 0 when off.</summary>
    internal uint Entries => IsOn ? 0x1000u << (int)(_value & QueueAddressBits.SizeMask) >> Shift : 0;

    /// <summary>As it is saved: IQA and a bit that says on.</summary>
    internal ulong Word => _value;

    /// <summary>Takes what <see cref="Word"/> gave; false when it never gives that.</summary>
    internal static bool TryParse(ulong word, bool wideAllowed, out LatchedQueue queue)
    {
        queue = new LatchedQueue(word);
        ulong possible = QueueAddressBits.BaseMask | QueueAddressBits.SizeMask | On | (wideAllowed ? QueueAddressBits.Wide : 0);
        return word == 0 || ((word & ~possible) == 0 && (word & On) != 0);
    }
}
