namespace Godwit.Iommu.Intel;

/// <summary>
/// Properties of the unit, fixed when the machine is built. The capability registers follow from them and from nothing else. The names in
/// the messages are those of the command line.
/// </summary>
public sealed record IntelIommuOptions
{
    /// <summary><c>aw-bits</c>: address width in bits, 39 (three levels), 48 (four) or 57 (five) (VT-d 3.7, 11.4.2 SAGAW and MGAW).</summary>
    public int AddressWidth { get; init; } = 39;

    /// <summary><c>caching-mode</c>, CAP.CM: the guest also invalidates when it makes something present. Needed for passthrough devices (VT-d 6.1).</summary>
    public bool CachingMode { get; init; } = true;

    /// <summary><c>intremap</c>, ECAP.IR: interrupts go through a table of the guest's (VT-d 5.1).</summary>
    public bool InterruptRemapping { get; init; }

    /// <summary><c>eim</c>, ECAP.EIM: that table may name x2APIC destinations of 32 bits (VT-d 5.1.4). Needs <see cref="InterruptRemapping"/>.</summary>
    public bool ExtendedInterruptMode { get; init; }

    /// <summary><c>dma-translation</c>: off makes a unit that remaps interrupts only: SAGAW is 0 and TE does nothing (VT-d 11.4.2).</summary>
    public bool DmaTranslation { get; init; } = true;

    /// <summary><c>pt</c>, ECAP.PT: pass-through contexts are legal (VT-d 9.3 TT = 10b, 9.6 PGTT = 100b).</summary>
    public bool PassThrough { get; init; } = true;

    /// <summary><c>device-iotlb</c>, ECAP.DT: contexts may allow device TLBs, and descriptors may invalidate them (VT-d 4.1).</summary>
    public bool DeviceIotlb { get; init; }

    /// <summary>
    /// <c>scalable-mode</c>, ECAP.SMTS with first- and second-stage tables (VT-d 3.4.3). First-stage tables have four levels at least, so
    /// with them it needs an <see cref="AddressWidth"/> of 48 or 57.
    /// </summary>
    public bool ScalableMode { get; init; }

    /// <summary>
    /// <c>first-stage</c>, ECAP.FSTS: scalable mode has first-stage tables too. Off for guests with passthrough devices that do not invalidate when
    /// they make first-stage entries present, which caching mode does not oblige them to do (VT-d 6.1).
    /// </summary>
    public bool FirstStage { get; init; } = true;

    /// <summary>Whether the guest can make first-stage tables, whose entries the unit marks as accessed and dirty (VT-d 3.6.2): it writes guest memory then.</summary>
    public bool HasFirstStage => ScalableMode && FirstStage;

    /// <summary><c>snoop-control</c>, ECAP.SC: bit 11 of second-stage leaves and PGSNP are no reserved bits (VT-d 9.6, 9.8). All accesses snoop anyway.</summary>
    public bool SnoopControl { get; init; }

    /// <summary>Throws <see cref="ArgumentException"/> naming the first property that cannot be, or the first two that exclude each other.</summary>
    public void Validate()
    {
        if (AddressWidth is not (39 or 48 or 57))
            throw new ArgumentException($"aw-bits {AddressWidth} is not a VT-d address width that this unit has: 39, 48 or 57");
        if (ExtendedInterruptMode && !InterruptRemapping)
            throw new ArgumentException("eim=on needs intremap=on: x2APIC destinations are in the interrupt-remapping table");
        if (!FirstStage && !ScalableMode)
            throw new ArgumentException("first-stage=off needs scalable-mode=on: without it there are no first-stage tables");
        if (ScalableMode && FirstStage && AddressWidth == 39)
            throw new ArgumentException("scalable-mode=on needs aw-bits=48 or 57, not 39, or first-stage=off: first-stage tables have four levels at least");
        if (DmaTranslation)
            return;
        if (!InterruptRemapping)
            throw new ArgumentException("dma-translation=off needs intremap=on: the unit would have nothing to do");
        if (ScalableMode)
            throw new ArgumentException("dma-translation=off and scalable-mode=on exclude each other: scalable mode is a way to translate DMA");
        if (DeviceIotlb)
            throw new ArgumentException("dma-translation=off and device-iotlb=on exclude each other: there would be no translations to cache");
        if (SnoopControl)
            throw new ArgumentException("dma-translation=off and snoop-control=on exclude each other: there would be no tables with snoop bits");
    }
}
