using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>A region as a device offers it.</summary>
/// <param name="Size">Bytes; 0 means absent.</param>
/// <param name="File">File that clients may map, or null.</param>
/// <param name="Mappable">Pieces that clients may map; empty with a file means all of it.</param>
/// <param name="Doorbells">
/// Registers that clients may write without a message (DEVICE_GET_REGION_IO_FDS): see <see cref="DoorbellRange"/>.
/// </param>
/// <param name="Events">Registers of which only matters that they are written: see <see cref="EventRegister"/>.</param>
public sealed record DeviceRegion(
    ulong Size,
    FileDescriptor? File = null,
    IReadOnlyList<SparseArea>? Mappable = null,
    IReadOnlyList<DoorbellRange>? Doorbells = null,
    IReadOnlyList<EventRegister>? Events = null);

/// <summary>
/// A register of which only matters that it was written, or that one value was. A client that can signals an eventfd of its own for each, with no value; the device
/// hears of it by <see cref="IVfioUserDevice.WriteRegion"/> as of any other write, before it hears of any message that was sent later. It may hear once of what
/// was written several times in short time.
/// </summary>
/// <param name="Offset">Of the register in the region, a multiple of <paramref name="Size"/>.</param>
/// <param name="Size">Its bytes: 1, 2, 4 or 8. Writes of another size come by message.</param>
/// <param name="Value">The value that it is about; others come by message. Null: any, and the device hears of 0 whatever was written by eventfd.</param>
public readonly record struct EventRegister(ulong Offset, int Size, ulong? Value = null)
{
    /// <summary>Most event registers of one device: each takes a descriptor, and a message carries 16.</summary>
    public const int MaxCount = 8;
}

/// <summary>
/// Registers of 32 bits of which only the latest value written matters. A client that can puts the value into shared memory and signals an
/// eventfd; the device hears of it by <see cref="IVfioUserDevice.WriteRegion"/> as of any other write, before it hears of any message
/// that was sent later. Of several values written to one register in short time it may see only the last; a value of all ones may be lost.
/// </summary>
/// <param name="Offset">Of the first one in the region, a multiple of 4.</param>
/// <param name="Count">How many, one after another. Of one device <see cref="MaxCount"/> at most.</param>
public readonly record struct DoorbellRange(ulong Offset, int Count)
{
    /// <summary>Most doorbells of one device: what one answer tells of.</summary>
    public const int MaxCount = 4096;
}

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
