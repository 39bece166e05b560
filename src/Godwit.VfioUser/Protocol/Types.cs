using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>An address that the device uses for DMA, as mapped by the client: an IOVA, or a GPA without a vIOMMU.</summary>
public readonly record struct DmaAddress(ulong Value)
{
    /// <inheritdoc/>
    public override string ToString() => $"dma 0x{Value:x}";
}

/// <summary>Rights of a DMA mapping; values of the wire (vfio-user DMA_MAP flags).</summary>
[Flags]
public enum DmaAccess : uint
{
    /// <summary>None; not valid on the wire.</summary>
    None = 0,

    /// <summary>The device may read.</summary>
    Read = 1,

    /// <summary>The device may write.</summary>
    Write = 2,
}

/// <summary>Migration state of a device; values of vfio.h vfio_device_mig_state.</summary>
public enum DeviceMigrationState : uint
{
#pragma warning disable CS1591 // vfio.h, enum vfio_device_mig_state
    Error = 0,
    Stop = 1,
    Running = 2,
    StopCopy = 3,
    Resuming = 4,
    RunningP2P = 5,
    PreCopy = 6,
    PreCopyP2P = 7,
#pragma warning restore CS1591
}

/// <summary>What migration a device offers; values of vfio.h VFIO_MIGRATION_*.</summary>
[Flags]
public enum MigrationSupport : ulong
{
    /// <summary>No migration.</summary>
    None = 0,

    /// <summary>Stop-and-copy; always there when anything is.</summary>
    StopCopy = 1,

    /// <summary>The P2P states.</summary>
    P2P = 2,

    /// <summary>The PRE_COPY states.</summary>
    PreCopy = 4,
}

/// <summary>GET_INFO.</summary>
public readonly record struct DeviceInfo(int RegionCount, int IrqCount, bool CanReset, bool IsPci);

/// <summary>One mappable piece of a region.</summary>
public readonly record struct SparseArea(ulong Offset, ulong Size);

/// <summary>GET_REGION_INFO. <see cref="File"/> is owned by the receiver and null when the region is not mappable.</summary>
public sealed record RegionInfo(int Index, ulong Size, bool Readable, bool Writable, ulong FileOffset, IReadOnlyList<SparseArea> Mappable, FileDescriptor? File);

/// <summary>GET_IRQ_INFO.</summary>
public readonly record struct IrqInfo(int Index, int Count, bool EventFd, bool Maskable, bool AutoMasked, bool NoResize);

/// <summary>A range of DMA addresses; <paramref name="Length"/> above 0, no wrap.</summary>
public readonly record struct DmaRange(DmaAddress Address, ulong Length);

/// <summary>Region indices of a PCI device (vfio.h VFIO_PCI_*_REGION_INDEX).</summary>
public static class PciRegion
{
#pragma warning disable CS1591
    public const int Bar0 = 0;
    public const int Bar5 = 5;
    public const int Rom = 6;
    public const int Config = 7;
    public const int Vga = 8;
    public const int Count = 9;
#pragma warning restore CS1591
}

/// <summary>Interrupt indices of a PCI device (vfio.h VFIO_PCI_*_IRQ_INDEX).</summary>
public static class PciIrq
{
#pragma warning disable CS1591
    public const int Intx = 0;
    public const int Msi = 1;
    public const int Msix = 2;
    public const int Error = 3;
    public const int Request = 4;
    public const int Count = 5;
#pragma warning restore CS1591
}

/// <summary>Base of everything that can go wrong with a vfio-user peer.</summary>
public abstract class VfioUserException : IOException
{
    private protected VfioUserException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>The peer answered a command with an error; the connection is fine.</summary>
public sealed class VfioUserRemoteException(string command, Errno errno)
    : VfioUserException($"The vfio-user peer refused {command}: {errno}")
{
    /// <summary>The command, by its name in the specification.</summary>
    public string Command { get; } = command;

    /// <summary>The error number it answered with.</summary>
    public Errno Errno { get; } = errno;
}

/// <summary>The peer broke the protocol; the connection is closed.</summary>
public sealed class VfioUserProtocolException(string message) : VfioUserException(message);

/// <summary>The connection is gone, or an answer did not come in time.</summary>
public sealed class VfioUserDisconnectedException(string message, Exception? inner = null) : VfioUserException(message, inner);
