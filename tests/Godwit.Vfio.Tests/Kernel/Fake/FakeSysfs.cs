namespace Godwit.Vfio.Tests;

/// <summary>A directory that looks like the part of sysfs that describes PCI functions.</summary>
internal sealed class FakeSysfs : IDisposable
{
    public string Root { get; } = Directory.CreateTempSubdirectory("godwit-sysfs-").FullName;

    public void Add(string address, int? group, string? driver, ushort vendor = 0x1234, ushort device = 0x11e8, uint classCode = 0x00ff00)
    {
        string home = Path.Combine(Root, "devices/pci0000:00", address);
        Directory.CreateDirectory(home);
        File.WriteAllText(Path.Combine(home, "vendor"), $"0x{vendor:x4}\n");
        File.WriteAllText(Path.Combine(home, "device"), $"0x{device:x4}\n");
        File.WriteAllText(Path.Combine(home, "class"), $"0x{classCode:x6}\n");
        if (driver is not null)
            Link(Path.Combine(home, "driver"), Path.Combine(Root, "bus/pci/drivers", driver));
        if (group is { } number)
            Link(Path.Combine(home, "iommu_group"), Path.Combine(Root, "kernel/iommu_groups", $"{number}"));
        Link(Path.Combine(Root, "bus/pci/devices", address), home);
    }

    /// <summary>The class device that the kernel makes when a VFIO driver is bound, and its character device's number.</summary>
    public void AddVfioNode(string address, string name, uint major, uint minor)
    {
        string home = Path.Combine(Root, "devices/pci0000:00", address, "vfio-dev", name);
        Directory.CreateDirectory(home);
        Link(Path.Combine(Root, "dev/char", $"{major}:{minor}"), home);
    }

    public void Dispose() => Directory.Delete(Root, recursive: true);

    private static void Link(string path, string target)
    {
        Directory.CreateDirectory(target);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        Directory.CreateSymbolicLink(path, target);
    }
}
