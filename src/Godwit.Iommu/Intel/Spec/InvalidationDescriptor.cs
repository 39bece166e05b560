namespace Godwit.Iommu.Intel.Spec;

/// <summary>Kinds of queue entries (VT-d 6.5.2). Page-group responses (9) and host permission tables (10) are not offered.</summary>
internal enum DescriptorType
{
    ContextCache = 1,
    Iotlb = 2,
    DeviceTlb = 3,
    InterruptEntryCache = 4,
    Wait = 5,
    PasidIotlb = 6,
    PasidCache = 7,
    PasidDeviceTlb = 8,
}

/// <summary>
/// An invalidation descriptor as read from the queue (VT-d 6.5.2.1 to 6.5.2.9). One of 128 bits has zeroes in the upper half.
/// </summary>
internal readonly record struct InvalidationDescriptor(ulong Low, ulong High, ulong Upper = 0)
{
    private const ulong PhysicalFunction = 0xFFF0_0000_0000_F000; // PFSID: reserved, as ECAP.DIT is 0

    /// <summary>Type: bits 3:0 with bits 11:9 above them.</summary>
    internal int Type => (int)((Low & 0xF) | ((Low >> 5) & 0x70));

    /// <summary>G of cache descriptors (but PASID-cache ones): 1 global, 2 domain or PASID, 3 device or page.</summary>
    internal ulong Granularity => (Low >> 4) & 3;

    internal ushort Domain => (ushort)(Low >> 16);

    /// <summary>SID of context-cache and device-TLB descriptors.</summary>
    internal ushort SourceId => (ushort)(Low >> 32);

    /// <summary>SID of PASID-based device-TLB descriptors.</summary>
    internal ushort PasidDeviceSourceId => (ushort)(Low >> 16);

    internal uint Pasid => (uint)(Low >> 32) & 0xF_FFFF;

    /// <summary>FM: 0 all bits of the source id count, 1 to 3 mask as many low function bits.</summary>
    internal int FunctionMask => (int)((Low >> 48) & 3);

    internal ulong Address => High & ~0xFFFUL;

    internal int AddressMask => (int)(High & 0x3F);

    /// <summary>G of interrupt-entry descriptors: only the entries named, not all.</summary>
    internal bool InterruptSelective => (Low & (1 << 4)) != 0;

    /// <summary>IM: 2^IM entries.</summary>
    internal int InterruptIndexMask => (int)((Low >> 27) & 0x1F);

    /// <summary>IIDX.</summary>
    internal int InterruptIndex => (ushort)(Low >> 32);

    internal bool WaitInterrupt => (Low & (1 << 4)) != 0;

    internal bool WaitStatusWrite => (Low & (1 << 5)) != 0;

    internal uint StatusData => (uint)(Low >> 32);

    /// <summary>Bits above the host's address width are ignored (6.5.2.9).</summary>
    internal ulong StatusAddress => High & GuestTables.HostWidthMask & ~3UL;

    /// <summary>Whether a bit is set that the specification reserves for this type. Unknown types have no reserved bits.</summary>
    internal bool HasReservedBits => Upper != 0 || (DescriptorType)Type switch
    {
        DescriptorType.ContextCache => (Low & 0xFFFC_0000_0000_F1C0) != 0 || High != 0,
        DescriptorType.Iotlb => (Low & 0xFFFF_FFFF_0000_F100) != 0 || (High & 0xF80) != 0,
        DescriptorType.DeviceTlb => (Low & (0x000F_0000_FFE0_01F0 | PhysicalFunction)) != 0 || (High & 0xFFE) != 0,
        DescriptorType.InterruptEntryCache => (Low & 0xFFFF_0000_07FF_F1E0) != 0 || High != 0,
        DescriptorType.Wait => (Low & 0xFFFF_F180) != 0 || (High & 3) != 0,
        DescriptorType.PasidIotlb => (Low & 0xFFF0_0000_0000_F1C0) != 0 || (High & 0xF80) != 0,
        DescriptorType.PasidCache => (Low & 0xFFF0_0000_0000_F1C0) != 0 || High != 0,
        DescriptorType.PasidDeviceTlb => (Low & PhysicalFunction) != 0 || (High & 0x7FE) != 0,
        _ => false,
    };
}
