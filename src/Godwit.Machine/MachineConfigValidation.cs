using Godwit.Machine.Guests.Edu;
using Godwit.Machine.Guests.Stress;
using Godwit.Vfio;

namespace Godwit.Machine;

/// <summary>Everything that can be said against a configuration before anything is built.</summary>
internal static class MachineConfigValidation
{
    private const int MaxNameLength = 63;

    /// <summary>Returns when nothing speaks against <paramref name="config"/>.</summary>
    /// <exception cref="ArgumentException">A setting that cannot be; thing, value and limit are named.</exception>
    public static void Validate(MachineConfig config)
    {
        if (config.Name.Length is 0 or > MaxNameLength)
            throw new ArgumentException($"The machine's name '{config.Name}' has {config.Name.Length} characters; it must have 1 to {MaxNameLength}.");
        CheckMemory(config);
        CheckVcpus(config);
        CheckDevices(config.Devices);
        CheckShadowing(config);

        IReadOnlyList<KeyValuePair<string, string>> options = GuestPrograms.Resolve(config.Guest, config.GuestOptions);
        BoardLayout layout = BoardLayout.For(config.MemoryBytes);
        string commandLine = CommandLine(options);
        _ = BootInfo.For(layout, commandLine).ToPage();
        if (config.Guest == EduProgram.ProgramName)
            EduOptions.Parse(commandLine).Check(layout);
        if (config.Guest != "nvme-stress")
            return;
        StressOptions stress = StressOptions.Parse(commandLine);
        StressSizing.Check(stress, layout, Math.Max(config.Devices.Count, 1));
        if (stress.InterruptCpu >= config.Vcpus)
            throw new ArgumentException($"Guest option irq-cpu is {stress.InterruptCpu}; the machine has {config.Vcpus} vCPUs, with APIC ids from 0 on.");
        if (stress.Tables == Guests.Drivers.TableKind.FirstStage && !(config.Iommu == IommuKind.Intel && config.Intel is { ScalableMode: true, FirstStage: true }))
            throw new ArgumentException("Guest option tables is first; the vIOMMU has no first-stage tables without scalable-mode=on, nor with first-stage=off.");
    }

    /// <summary>How the firmware passes options to the guest.</summary>
    public static string CommandLine(IReadOnlyList<KeyValuePair<string, string>> options) =>
        string.Join(' ', options.Select(o => $"{o.Key}={o.Value}"));

    private static void CheckMemory(MachineConfig config)
    {
        ulong bytes = config.MemoryBytes;
        if (bytes is < MachineConfig.MinMemoryBytes or > MachineConfig.MaxMemoryBytes)
            throw new ArgumentException($"Memory of {bytes} bytes is out of range; it must be from 64 MiB to 1 TiB.");
        if (bytes % MachineConfig.MemoryGranularity != 0)
            throw new ArgumentException($"Memory of {bytes} bytes is not a multiple of 2 MiB ({MachineConfig.MemoryGranularity} bytes).");

        switch (config.Iommu)
        {
            case IommuKind.None:
                return;
            case IommuKind.Intel:
                break;
            default:
                throw new ArgumentException($"IOMMU kind {(int)config.Iommu} does not exist; there are none and intel.");
        }

        int width = config.Intel.AddressWidth;
        config.Intel.Validate();
        if (!config.Intel.DmaTranslation)
            return;
        ulong end = BoardLayout.For(bytes).RamEnd.Value;
        if (end > 1UL << width)
        {
            throw new ArgumentException(
                $"Memory of {bytes} bytes ends at 0x{end:x}, beyond what an IOMMU of {width} bits reaches (0x{1UL << width:x}); use aw-bits 48 or 57.");
        }
    }

    private static void CheckVcpus(MachineConfig config)
    {
        if (config.Vcpus is < 1 or > MachineConfig.MaxVcpus)
            throw new ArgumentException($"{config.Vcpus} vCPUs are out of range; there can be 1 to {MachineConfig.MaxVcpus}.");
        if (config.Vcpus > MachineConfig.MaxVcpusWithoutRemapping && !(config.Iommu == IommuKind.Intel && config.Intel.ExtendedInterruptMode))
        {
            throw new ArgumentException(
                $"{config.Vcpus} vCPUs need a vIOMMU with intremap=on,eim=on: without it interrupts reach APIC ids up to 254 only, so "
                + $"{MachineConfig.MaxVcpusWithoutRemapping} vCPUs is the limit.");
        }
    }

    private static void CheckDevices(IReadOnlyList<VfioDeviceOptions> devices)
    {
        if (devices.Count > MachineConfig.MaxDevices)
            throw new ArgumentException($"{devices.Count} devices are too many; bus 0 has slots for {MachineConfig.MaxDevices}.");
        var ids = new HashSet<string>(StringComparer.Ordinal);
        foreach (VfioDeviceOptions device in devices)
        {
            if (device.Id.Length is 0 or > MaxNameLength)
                throw new ArgumentException($"Device id '{device.Id}' has {device.Id.Length} characters; it must have 1 to {MaxNameLength}.");
            if (!ids.Add(device.Id))
                throw new ArgumentException($"Device id '{device.Id}' is used twice.");
            CheckPlace(device);
        }
    }

    /// <summary>A device that the unit cannot tell of the guest's mappings would have no access to memory as soon as the guest translated its DMA.</summary>
    private static void CheckShadowing(MachineConfig config)
    {
        if (config is { Iommu: IommuKind.Intel, Intel: { DmaTranslation: true, CachingMode: false }, Devices.Count: > 0 })
        {
            throw new ArgumentException(
                $"caching-mode=off and device '{config.Devices[0].Id}' exclude each other: the unit would not learn what the guest maps for a passthrough device.");
        }
    }

    private static void CheckPlace(VfioDeviceOptions device)
    {
        if (device.Kernel is { } kernel)
        {
            if (device.Socket is not null)
                throw new ArgumentException($"Device '{device.Id}' has a socket path and is a device of the kernel; it can be one of both.");
            if (string.IsNullOrEmpty(kernel.Host) == kernel.Descriptor is null)
                throw new ArgumentException($"Device '{device.Id}' of the kernel needs a host address or a descriptor, not both.");
        }
        else if (string.IsNullOrEmpty(device.Socket))
        {
            throw new ArgumentException($"Device '{device.Id}' has no socket path.");
        }
    }
}
