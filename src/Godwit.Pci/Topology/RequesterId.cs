namespace Godwit.Pci;

/// <summary>Bus, device and function as seen by an IOMMU: bus &lt;&lt; 8 | devfn (VT-d 3.4.1 source-id).</summary>
public readonly record struct RequesterId(ushort Value)
{
    /// <summary>Composed from a bus number that is right now.</summary>
    public RequesterId(byte bus, DevFn devFn) : this((ushort)((bus << 8) | devFn.Value)) { }

    /// <summary>Bus number.</summary>
    public byte Bus => (byte)(Value >> 8);

    /// <summary>Device and function.</summary>
    public DevFn DevFn => new((byte)Value);

    /// <inheritdoc/>
    public override string ToString() => $"{Bus:x2}:{DevFn}";
}
