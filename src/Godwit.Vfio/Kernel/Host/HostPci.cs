using System.Globalization;

namespace Godwit.Vfio;

/// <summary>PCI functions and IOMMU groups of the host, read from sysfs. Files may go while they are read: such a function is left out.</summary>
/// <param name="sysfs">Where sysfs is mounted.</param>
internal sealed class HostPci(string sysfs = "/sys")
{
    private string DevicesPath => Path.Combine(sysfs, "bus/pci/devices");

    /// <summary>All functions, by address.</summary>
    public IReadOnlyList<HostPciDevice> All()
    {
        if (!Directory.Exists(DevicesPath))
            return [];
        List<HostPciDevice> found = [];
        foreach (string path in Directory.EnumerateFileSystemEntries(DevicesPath))
        {
            if (HostPciAddress.TryParse(Path.GetFileName(path), out HostPciAddress address) && TryRead(path, address) is { } device)
                found.Add(device);
        }

        return [.. found.OrderBy(d => (d.Address.Domain, d.Address.Bus, d.Address.Slot, d.Address.Function))];
    }

    /// <summary>The function at <paramref name="address"/>, or null.</summary>
    public HostPciDevice? Find(HostPciAddress address) => TryRead(Path.Combine(DevicesPath, address.ToString()), address);

    /// <summary>The function whose sysfs directory (or a link to it) is <paramref name="path"/>, or null.</summary>
    public HostPciDevice? FindByPath(string path) =>
        Directory.Exists(path) && HostPciAddress.TryParse(Path.GetFileName(Target(path)), out HostPciAddress address) ? Find(address) : null;

    /// <summary>The function whose VFIO device has the character device number <paramref name="major"/>:<paramref name="minor"/>, or null.</summary>
    public HostPciDevice? FindByDeviceNumber(uint major, uint minor)
    {
        string node = Path.Combine(sysfs, "dev/char", string.Create(CultureInfo.InvariantCulture, $"{major}:{minor}"));
        if (!Directory.Exists(node))
            return null;
        // /sys/devices/…/0000:3b:00.2/vfio-dev/vfio0
        string? classDirectory = Path.GetDirectoryName(Target(node));
        return Path.GetFileName(classDirectory) == "vfio-dev" ? FindByPath(Path.GetDirectoryName(classDirectory)!) : null;
    }

    /// <summary>The functions of an IOMMU group, by address.</summary>
    public IReadOnlyList<HostPciDevice> Group(int group) => [.. All().Where(d => d.IommuGroup == group)];

    private static HostPciDevice? TryRead(string path, HostPciAddress address)
    {
        try
        {
            if (!Directory.Exists(path))
                return null;
            return new HostPciDevice
            {
                Address = address,
                Vendor = (ushort)Number(Path.Combine(path, "vendor")),
                Device = (ushort)Number(Path.Combine(path, "device")),
                ClassCode = Number(Path.Combine(path, "class")),
                Driver = Link(Path.Combine(path, "driver")),
                IommuGroup = int.TryParse(Link(Path.Combine(path, "iommu_group")), NumberStyles.None, CultureInfo.InvariantCulture, out int group) ? group : null,
                VfioName = VfioDevice(Path.Combine(path, "vfio-dev")),
            };
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
        {
            return null; // gone, or no PCI function
        }
    }

    private static uint Number(string path)
    {
        string text = File.ReadAllText(path).Trim();
        return uint.Parse(text.StartsWith("0x", StringComparison.Ordinal) ? text[2..] : text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
    }

    private static string? VfioDevice(string directory) =>
        Directory.Exists(directory) ? Path.GetFileName(Directory.EnumerateFileSystemEntries(directory).FirstOrDefault()) : null;

    private static string? Link(string path) => new FileInfo(path).LinkTarget is { } target ? Path.GetFileName(target) : null;

    private static string Target(string path) => new DirectoryInfo(path).ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? Path.GetFullPath(path).TrimEnd('/');
}
