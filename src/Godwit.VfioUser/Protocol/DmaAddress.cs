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

/// <summary>A range of DMA addresses; <paramref name="Length"/> above 0, no wrap.</summary>
public readonly record struct DmaRange(DmaAddress Address, ulong Length);
