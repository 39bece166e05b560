using Godwit.Iommu.Intel;
using Godwit.Vfio;

namespace Godwit.Machine;

/// <summary>Which vIOMMU the board has.</summary>
public enum IommuKind
{
    /// <summary>None: IOVA is GPA.</summary>
    None,

    /// <summary>Intel VT-d.</summary>
    Intel,
}

/// <summary>What <c>godwit run</c> builds.</summary>
public sealed record MachineConfig
{
    /// <summary>Smallest <see cref="MemoryBytes"/>.</summary>
    public const ulong MinMemoryBytes = 64UL << 20;

    /// <summary>Largest <see cref="MemoryBytes"/>.</summary>
    public const ulong MaxMemoryBytes = 1UL << 40;

    /// <summary>What <see cref="MemoryBytes"/> must be a multiple of: the huge page that RAM is backed with.</summary>
    public const ulong MemoryGranularity = 2UL << 20;

    /// <summary>Most passthrough devices: slots 03 to 1f of bus 0.</summary>
    public const int MaxDevices = 29;

    /// <summary>Most vCPUs.</summary>
    public const int MaxVcpus = 1024;

    /// <summary>
    /// Most vCPUs whose APIC ids, 0 to 254, fit interrupt messages without remapping: those have 8 bits, and all ones means everybody
    /// (Intel SDM vol. 3, 11.6.2.1 and 11.11.1).
    /// </summary>
    public const int MaxVcpusWithoutRemapping = 255;

    /// <summary>Name shown in status; 1 to 63 characters.</summary>
    public string Name { get; init; } = "godwit";

    /// <summary>Bytes of RAM: a multiple of 2 MiB, 64 MiB to 1 TiB. Half (at most 2 GiB) lies below 4 GiB, the rest above.</summary>
    public ulong MemoryBytes { get; init; } = 1UL << 30;

    /// <summary>
    /// vCPUs, with APIC ids from 0 on: 1 to <see cref="MaxVcpusWithoutRemapping"/>, or up to <see cref="MaxVcpus"/> when the vIOMMU remaps
    /// interrupts to 32-bit destinations (<see cref="IntelIommuOptions.ExtendedInterruptMode"/>).
    /// </summary>
    public int Vcpus { get; init; } = 1;

    /// <summary>The vIOMMU.</summary>
    public IommuKind Iommu { get; init; } = IommuKind.Intel;

    /// <summary>Options of the Intel vIOMMU.</summary>
    public IntelIommuOptions Intel { get; init; } = new();

    /// <summary>Passthrough devices, in slot order from 00:03.0.</summary>
    public IReadOnlyList<VfioDeviceOptions> Devices { get; init; } = [];

    /// <summary>Name of the guest program, see <see cref="GuestPrograms"/>.</summary>
    public string Guest { get; init; } = "idle";

    /// <summary>Options of the guest program by name, for example <c>queue-depth = 32</c>. Unknown names are refused.</summary>
    public IReadOnlyDictionary<string, string> GuestOptions { get; init; } = new Dictionary<string, string>(StringComparer.Ordinal);

    /// <summary>Says everything that can be said against it before anything is built.</summary>
    /// <exception cref="ArgumentException">A setting that cannot be; thing, value and limit are named.</exception>
    public void Validate() => MachineConfigValidation.Validate(this);
}
