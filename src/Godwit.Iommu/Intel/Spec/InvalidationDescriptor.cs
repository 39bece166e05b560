namespace Godwit.Iommu.Intel.Spec;

/// <summary>Kinds of 128-bit queue entries (VT-d 6.5.2).</summary>
internal enum DescriptorType
{
    ContextCache = 1,
    Iotlb = 2,
    InterruptEntryCache = 4,
    Wait = 5,
}

/// <summary>A 128-bit invalidation descriptor as read from the queue (VT-d 6.5.2.1 to 6.5.2.8).</summary>
internal readonly record struct InvalidationDescriptor(ulong Low, ulong High)
{
    /// <summary>Type: bits 3:0 with bits 11:9 above them.</summary>
    internal int Type => (int)((Low & 0xF) | ((Low >> 5) & 0x70));

    /// <summary>G of context-cache and IOTLB descriptors: 1 global, 2 domain, 3 device or page.</summary>
    internal ulong Granularity => (Low >> 4) & 3;

    internal ushort Domain => (ushort)(Low >> 16);

    internal ushort SourceId => (ushort)(Low >> 32);

    /// <summary>FM: 0 all bits of the source id count, 1 to 3 mask as many low function bits.</summary>
    internal int FunctionMask => (int)((Low >> 48) & 3);

    internal ulong Address => High & ~0xFFFUL;

    internal int AddressMask => (int)(High & 0x3F);

    internal bool WaitInterrupt => (Low & (1 << 4)) != 0;

    internal bool WaitStatusWrite => (Low & (1 << 5)) != 0;

    internal bool WaitFence => (Low & (1 << 6)) != 0;

    internal uint StatusData => (uint)(Low >> 32);

    internal ulong StatusAddress => High & ~3UL;

    /// <summary>Whether a bit is set that the specification reserves for this type.</summary>
    internal bool HasReservedBits => (DescriptorType)Type switch
    {
        DescriptorType.ContextCache => (Low & 0xFFFC_0000_0000_F1C0) != 0 || High != 0,
        DescriptorType.Iotlb => (Low & 0xFFFF_FFFF_0000_F100) != 0 || (High & 0xF80) != 0,
        DescriptorType.InterruptEntryCache => (Low & 0xFFFF_0000_07FF_F1E0) != 0 || High != 0,
        DescriptorType.Wait => (Low & 0xFFFF_F180) != 0 || (High & 3) != 0,
        _ => true,
    };
}
