using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>How the guest wants its tables.</summary>
internal enum TableKind : uint
{
    /// <summary>Second stage: in scalable mode when the unit has it, else in legacy mode.</summary>
    SecondStage,

    /// <summary>First stage, in scalable mode.</summary>
    FirstStage,

    /// <summary>Legacy mode whatever the unit has.</summary>
    Legacy,
}

// Which device is in which domain (VT-d 3.4).
internal partial struct VtdUnit
{
    /// <summary>A PASID directory and a PASID table, for <see cref="Attach"/> in scalable mode.</summary>
    public const ulong PasidBytes = 2 * (ulong)RamPage.Size;

    /// <summary>
    /// Puts a device of bus 0 into a domain, or into pass-through when there is no table, wherever it was before. The device does no DMA
    /// meanwhile. On return the unit has forgotten what was.
    /// </summary>
    /// <param name="cpu">The CPU.</param>
    /// <param name="bdf">The device.</param>
    /// <param name="domain">Its domain id.</param>
    /// <param name="table">The domain's table.</param>
    /// <param name="pasids">The device's <see cref="PasidBytes"/>, zeroed at first; used in scalable mode only.</param>
    public void Attach(GuestCpu cpu, ushort bdf, ushort domain, in IoPageTable? table, Gpa pasids)
    {
        if (bdf > 0xFF)
            throw new GuestPanicException($"device 0x{bdf:x4} is not on bus 0");
        ushort before = Scalable ? SetPasid(cpu.Bus, bdf, domain, table, pasids) : SetContext(cpu.Bus, bdf, domain, table);

        // By the domain that the entry was cached under, which is 0 for one that was not present (6.1, 6.5.3.3).
        var batch = new InvalidationBatch(cpu);
        ulong cachedUnder = (ulong)before << VtdRegisters.ContextDomainShiftInDescriptor;
        ulong source = (ulong)bdf << VtdRegisters.ContextSourceShift;
        batch.Add(ref this, VtdRegisters.ContextInvalidate | VtdRegisters.ContextDevice | cachedUnder | source, 0);
        if (Scalable)
            batch.Add(ref this, VtdRegisters.PasidInvalidate | VtdRegisters.PasidSelective | cachedUnder, 0);
        batch.AddDomain(ref this, before);
        if (before != domain)
            batch.AddDomain(ref this, domain);
        batch.Submit(ref this);
    }

    /// <summary>Legacy mode (9.3). Returns the domain that the entry had.</summary>
    private readonly ushort SetContext(GuestBus bus, ushort bdf, ushort domain, in IoPageTable? table)
    {
        Gpa entry = ContextTable + (bdf * 16UL);
        var before = (ushort)(bus.Load<ulong>(entry + 8) >> VtdRegisters.ContextDomainShift);

        // Not present in between, so that the unit never sees half an entry.
        bus.StoreRelease64(entry, 0);
        bus.StoreRelease64(entry + 8, ((ulong)domain << VtdRegisters.ContextDomainShift) | WidthCode(AddressBits));
        bus.StoreRelease64(entry, VtdRegisters.Present | (table is { } translated ? translated.Root.Value : VtdRegisters.ContextPassThrough));
        return before;
    }

    /// <summary>Scalable mode (9.4 to 9.6): requests without PASID have PASID 0, whose entry says what becomes of them.</summary>
    private readonly ushort SetPasid(GuestBus bus, ushort bdf, ushort domain, in IoPageTable? table, Gpa pasids)
    {
        Gpa pasidTable = pasids + RamPage.Size;
        var before = (ushort)bus.Load<ulong>(pasidTable + 8);
        bus.StoreRelease64(pasidTable, 0);
        bus.StoreRelease64(pasidTable + 8, domain);
        bus.StoreRelease64(pasidTable + 16, table is { FirstStage: true } first ? first.Root.Value | (first.Levels == 5 ? VtdRegisters.PasidFiveLevels : 0) : 0);
        bus.StoreRelease64(pasidTable, VtdRegisters.Present | table switch
        {
            null => VtdRegisters.PasidPassThrough,
            { FirstStage: true } => VtdRegisters.PasidFirstStage,
            { } second => VtdRegisters.PasidSecondStage | (WidthCode(AddressBits) << VtdRegisters.PasidWidthShift) | second.Root.Value,
        });
        bus.StoreRelease64(pasids, pasidTable.Value | VtdRegisters.Present);
        bus.StoreRelease64(ContextTable + (bdf * 32UL), pasids.Value | VtdRegisters.Present);
        return before;
    }

    /// <summary>AW: 1 is 39 bits, 2 is 48 bits, 3 is 57 bits.</summary>
    private static ulong WidthCode(int bits) => (ulong)(bits - 30) / 9;
}
