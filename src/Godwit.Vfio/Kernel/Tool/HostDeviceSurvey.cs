using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>What can be said of a device of the host before it is given to a machine.</summary>
public sealed record HostDeviceReport
{
    /// <summary>The device, as sysfs describes it.</summary>
    public required HostPciDevice Device { get; init; }

    /// <summary>Other devices of its group that keep it from being used.</summary>
    public required IReadOnlyList<HostPciDevice> InTheWay { get; init; }

    /// <summary>What it offers; null when it has not been opened, and <see cref="NotOpened"/> says why.</summary>
    public HostDeviceFacts? Facts { get; init; }

    /// <summary>Why it has not been opened; null when it has.</summary>
    public string? NotOpened { get; init; }

    /// <summary>What to do next to use it, one line each.</summary>
    public IReadOnlyList<string> Next
    {
        get
        {
            if (Device.IommuGroup is null)
                return ["turn the host's IOMMU on (intel_iommu=on or amd_iommu=on on its command line)"];
            if (InTheWay.Count > 0)
                return [$"unbind from the host: {string.Join(", ", InTheWay.Select(d => $"{d.Address} ({d.Driver})"))}"];
            if (!Device.HasVfioDriver)
                return Device.BindCommands;
            return Facts is null ? [NotOpened ?? "open it"] : [$"godwit run --device vfio,host={Device.Address} …"];
        }
    }
}

/// <summary>What an opened device offers.</summary>
/// <param name="Interface">The interface that was used.</param>
/// <param name="Migration">What its driver offers to save its state.</param>
/// <param name="LogsDma">Whether it logs the memory that it writes.</param>
/// <param name="HostTracksDirty">Whether the host's IOMMU can tell which pages it wrote.</param>
/// <param name="CanReset">Whether it can be reset without touching other devices.</param>
/// <param name="WidestIommu">Widest vIOMMU that the host's IOMMU can follow, in address bits; null when not even the narrowest is, or the kernel does not tell.</param>
public sealed record HostDeviceFacts(HostIommuKind Interface, MigrationSupport Migration, bool LogsDma, bool HostTracksDirty, bool CanReset, int? WidestIommu);

/// <summary>Looks at the PCI devices of this host. Devices with a VFIO driver that nobody uses are opened for a moment, which resets them.</summary>
public static class HostDeviceSurvey
{
    /// <summary>Address widths of second-stage tables (VT-d 5.0, 3.7).</summary>
    private static readonly int[] Widths = [57, 48, 39];

    /// <summary>All endpoints of this host, by address.</summary>
    public static IReadOnlyList<HostDeviceReport> All() => All(LinuxKernelCalls.Instance, new HostPci());

    /// <summary>All endpoints, bridges left out.</summary>
    internal static IReadOnlyList<HostDeviceReport> All(IKernelCalls calls, HostPci host)
    {
        IReadOnlyList<HostPciDevice> all = host.All();
        return [.. all.Where(d => !d.IsBridge).Select(d => Look(d, all, calls, host))];
    }

    private static HostDeviceReport Look(HostPciDevice device, IReadOnlyList<HostPciDevice> all, IKernelCalls calls, HostPci host)
    {
        HostPciDevice[] others = device.IommuGroup is { } group
            ? [.. all.Where(d => d.IommuGroup == group && d.Address != device.Address && !d.LeavesGroupViable)]
            : [];
        var report = new HostDeviceReport { Device = device, InTheWay = others };
        if (!device.HasVfioDriver)
            return report with { NotOpened = $"bound to {device.Driver ?? "no driver"}" };
        try
        {
            using KernelBackend opened = KernelAttach.Open(new KernelDeviceOptions { Host = device.Address.ToString() }, calls, host);
            return report with { Facts = Ask(opened) };
        }
        catch (IOException e)
        {
            return report with { NotOpened = e.Message };
        }
    }

    private static HostDeviceFacts Ask(KernelBackend device) => new(
        device.Kind,
        device.GetMigrationSupport(),
        device.SupportsDmaLogging(),
        device.HostTracksDirty,
        device.GetInfo().CanReset,
        device.Usable.IsEmpty ? null : Widths.Where(bits => HostReach.Missing(device.Usable, 0, (1UL << bits) - 1) is null).Select(bits => (int?)bits).FirstOrDefault());
}
