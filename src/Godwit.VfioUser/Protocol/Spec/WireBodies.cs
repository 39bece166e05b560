using System.Runtime.InteropServices;

namespace Godwit.VfioUser;

// Message bodies after the 16-byte header, in the byte order of the host (vfio-user specification, one section per command).
// Sizes are asserted by a test. Fields are read once into these copies and validated there.

/// <summary>VERSION, followed by JSON and a NUL.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct VersionBody
{
    public ushort Major;
    public ushort Minor;
}

/// <summary>DMA_MAP.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct DmaMapBody
{
    public uint ArgSize;
    public uint Flags;
    public ulong FileOffset;
    public ulong Address;
    public ulong Size;
}

/// <summary>DMA_UNMAP, the reply being the same.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct DmaUnmapBody
{
    public uint ArgSize;
    public DmaUnmapFlags Flags;
    public ulong Address;
    public ulong Size;
}

/// <summary>DEVICE_GET_INFO.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct DeviceInfoBody
{
    public uint ArgSize;
    public DeviceFlags Flags;
    public uint Regions;
    public uint Irqs;
}

/// <summary>DEVICE_GET_REGION_INFO, followed by capabilities in a reply.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct RegionInfoBody
{
    public uint ArgSize;
    public RegionFlags Flags;
    public uint Index;
    public uint CapabilityOffset;
    public ulong Size;
    public ulong FileOffset;
}

/// <summary>Head of a capability; <see cref="Next"/> counts from the start of the body, 0 ends the chain.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct CapabilityHeader
{
    /// <summary>VFIO_REGION_INFO_CAP_SPARSE_MMAP (linux/vfio.h).</summary>
    public const ushort SparseMmap = 1;

    public ushort Id;
    public ushort Version;
    public uint Next;
}

/// <summary>The sparse mmap capability after its head, followed by the areas.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct SparseMmapBody
{
    public uint Count;
    public uint Reserved;
}

/// <summary>One area of the sparse mmap capability, and one range of DMA_LOGGING_START: start and length.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct SpanBody
{
    public ulong Start;
    public ulong Length;
}

/// <summary>DEVICE_GET_REGION_IO_FDS.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct RegionIoFdsBody
{
    public uint ArgSize;
    public uint Flags;
    public uint Index;
    public uint Count;
}

/// <summary>
/// An entry of DEVICE_GET_REGION_IO_FDS with a shadow: the form of libvfio-user (include/vfio-user.h, vfio_user_sub_region_ioeventfd), 48
/// bytes. The specification's own form has 40: without the shadow's offset, so that <see cref="DataMatch"/> comes at 32.
/// </summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct IoFdBody
{
    /// <summary>Bytes of the specification's form.</summary>
    public const int PlainSize = 40;

    /// <summary>No descriptor (libvfio-user, the value of -1).</summary>
    public const uint NoFile = uint.MaxValue;

    public ulong Offset;
    public ulong Size;
    public uint FileIndex;
    public IoFdType Type;
    public IoEventFlags Flags;
    public uint ShadowFileIndex;
    public ulong ShadowOffset;
    public ulong DataMatch;
}

/// <summary>DEVICE_GET_IRQ_INFO.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct IrqInfoBody
{
    public uint ArgSize;
    public IrqFlags Flags;
    public uint Index;
    public uint Count;
}

/// <summary>DEVICE_SET_IRQS, followed by <see cref="Count"/> bytes with DATA_BOOL.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct SetIrqsBody
{
    public uint ArgSize;
    public IrqSetFlags Flags;
    public uint Index;
    public uint Start;
    public uint Count;
}

/// <summary>REGION_READ and REGION_WRITE, followed by data.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct RegionAccessBody
{
    public ulong Offset;
    public uint Region;
    public uint Count;
}

/// <summary>DMA_READ and DMA_WRITE, followed by data.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct DmaAccessBody
{
    public ulong Address;
    public ulong Count;
}

/// <summary>One write of REGION_WRITE_MULTI; a 64-bit number of them precedes.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct MultiWriteBody
{
    public ulong Offset;
    public uint Region;
    public uint Count;
    public ulong Data;
}

/// <summary>DEVICE_FEATURE, followed by the feature's data.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct FeatureBody
{
    public uint ArgSize;
    public FeatureFlags Flags;

    public readonly Feature Index => (Feature)(Flags & FeatureFlags.IndexMask);
}

/// <summary>DEVICE_FEATURE MIG_DEVICE_STATE; the data descriptor of the kernel's interface is not used here.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct MigrationStateBody
{
    public uint State;
    public int DataFd;
}

/// <summary>DEVICE_FEATURE DMA_LOGGING_START, followed by the ranges.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct LogControlBody
{
    public ulong PageSize;
    public uint RangeCount;
    public uint Reserved;
}

/// <summary>DEVICE_FEATURE DMA_LOGGING_REPORT, followed in the reply by the bitmap.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct LogReportBody
{
    public ulong Address;
    public ulong Length;
    public ulong PageSize;
}

/// <summary>MIG_DATA_READ and MIG_DATA_WRITE, followed by data.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct MigrationDataBody
{
    public uint ArgSize;
    public uint Size;
}
