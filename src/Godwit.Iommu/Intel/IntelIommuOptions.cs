namespace Godwit.Iommu.Intel;

/// <summary>Properties of the unit, fixed when the machine is built.</summary>
public sealed record IntelIommuOptions
{
    /// <summary>Address width in bits: 39 (three levels) or 48 (four levels) (VT-d 3.7, 11.4.2 SAGAW and MGAW).</summary>
    public int AddressWidth { get; init; } = 39;

    /// <summary>CAP.CM: the guest also invalidates when it makes something present. Needed for passthrough devices (VT-d 6.1).</summary>
    public bool CachingMode { get; init; } = true;

    /// <summary>ECAP.PT: pass-through contexts are legal (VT-d 9.3 TT = 10b).</summary>
    public bool PassThrough { get; init; } = true;

    /// <summary>Throws <see cref="ArgumentException"/> naming the first property that cannot be.</summary>
    internal void Validate()
    {
        if (AddressWidth is not (39 or 48))
            throw new ArgumentException($"aw-bits {AddressWidth} is not a VT-d address width that this unit has: 39 or 48");
    }
}
