namespace Godwit.Iommu.Intel.Interrupts;

/// <summary>An interrupt request in remappable format (VT-d 5.1.2.2), from its address and data.</summary>
internal readonly record struct RemappableRequest(ulong Address, uint Data)
{
    /// <summary>Address bit 4: remappable format; 0 is compatibility format (VT-d 5.1.2).</summary>
    internal static bool IsRemappable(ulong address) => (address & (1 << 4)) != 0;

    /// <summary>SHV: the data carries a sub-handle.</summary>
    private bool HasSubhandle => (Address & (1 << 3)) != 0;

    /// <summary>Address bits 19:5, with bit 2 above them.</summary>
    private int Handle => (int)((Address >> 5) & 0x7FFF) | (int)((Address & 4) << 13);

    /// <summary>Interrupt index: may be beyond 16 bits, which no table has (VT-d 5.1.3).</summary>
    internal int Index => Handle + (HasSubhandle ? (ushort)Data : 0);

    /// <summary>With SHV data bits 31:16 are reserved; without it the data is ignored.</summary>
    internal bool HasReservedBits => HasSubhandle && (Data >> 16) != 0;
}
