using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>A region as a device offers it.</summary>
/// <param name="Size">Bytes; 0 means absent.</param>
/// <param name="File">File that clients may map, or null.</param>
/// <param name="Mappable">Pieces that clients may map; empty with a file means all of it.</param>
public sealed record DeviceRegion(ulong Size, FileDescriptor? File = null, IReadOnlyList<SparseArea>? Mappable = null);

/// <summary>What a device author describes once.</summary>
public sealed record DeviceDescription
{
    /// <summary>Regions by <see cref="PciRegion"/> index.</summary>
    public required IReadOnlyDictionary<int, DeviceRegion> Regions { get; init; }

    /// <summary>Vectors by <see cref="PciIrq"/> index.</summary>
    public required IReadOnlyDictionary<int, int> Irqs { get; init; }

    /// <summary>What migration it offers.</summary>
    public MigrationSupport Migration { get; init; }

    /// <summary>Whether the host logs its DMA for it. With false the logging features are refused.</summary>
    public bool DmaLogging { get; init; } = true;
}
