using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Iommu.Intel;

/// <summary>Properties of the unit, fixed when the machine is built.</summary>
public sealed record IntelIommuOptions
{
    /// <summary>Address width in bits: 39 or 48.</summary>
    public int AddressWidth { get; init; } = 39;

    /// <summary>CAP.CM: the guest also invalidates when it makes something present. Needed for passthrough devices (VT-d 6.1).</summary>
    public bool CachingMode { get; init; } = true;

    /// <summary>ECAP.PT: pass-through contexts are legal.</summary>
    public bool PassThrough { get; init; } = true;
}

/// <summary>A VT-d remapping unit: registers at one MMIO page, translation for every function below the buses it is set on.</summary>
public sealed class IntelIommu : IPciIommu
{
    /// <summary>GPA of the register window, as a DMAR table would tell the guest.</summary>
    public static Gpa RegisterBase => new(0xFED9_0000);

    /// <summary>Creates the unit and places its registers in system memory.</summary>
    /// <exception cref="ArgumentException">An impossible combination of options, named.</exception>
    public IntelIommu(MemoryTopology topology, IntelIommuOptions options) => throw new NotImplementedException();

    /// <summary>The options it was built with.</summary>
    public IntelIommuOptions Options => throw new NotImplementedException();

    /// <summary>Mappings announced to shadow users now, and announced and withdrawn since the machine started.</summary>
    public IommuChurn Churn => throw new NotImplementedException();

    /// <inheritdoc/>
    public AddressSpace GetAddressSpace(PciBus bus, DevFn devFn) => throw new NotImplementedException();

    /// <inheritdoc/>
    public IommuAttributes GetAttributes(PciBus bus, DevFn devFn) => throw new NotImplementedException();

    /// <summary>Saves registers, latched tables and queue state.</summary>
    public void SaveState(System.Buffers.IBufferWriter<byte> writer) => throw new NotImplementedException();

    /// <summary>
    /// Loads them, then re-switches every device's space, which rebuilds and announces its mappings from the tables in guest RAM.
    /// RAM and bridge numbers must have been loaded before.
    /// </summary>
    public void LoadState(ReadOnlySpan<byte> state) => throw new NotImplementedException();
}

/// <summary>Counters of shadow mappings.</summary>
public readonly record struct IommuChurn(long Live, long Mapped, long Unmapped);
