using System.Globalization;
using Godwit.Vfio;

namespace Godwit.Cli;

/// <summary>
/// The argument of <c>--device</c>: <c>vfio-user,socket=PATH</c> or <c>vfio,host=ADDRESS|SYSFS-PATH</c> or <c>vfio,fd=N</c>, each with
/// <c>[,id=NAME][,enable-migration=auto|off|force][,dirty-tracking=MODE][,map-bars=on|off]</c>, for vfio-user <c>[,reply-timeout=TIME]</c>, and for vfio <c>[,host-iommu=auto|type1|iommufd]</c>.
/// </summary>
internal static class DeviceArgument
{
    /// <summary>Reads <paramref name="text"/>; a device without an id gets <c>vfioN</c> by <paramref name="position"/>.</summary>
    /// <exception cref="FormatException">What is wrong with it.</exception>
    public static VfioDeviceOptions Parse(string text, int position)
    {
        KeyValueList list = KeyValueList.Parse(text);
        bool kernel = list.Kind switch
        {
            "vfio-user" => false,
            "vfio" => true,
            _ => throw new FormatException($"device '{list.Kind}' is not known: vfio-user and vfio are"),
        };
        var options = new VfioDeviceOptions { Id = $"vfio{position}" };
        var place = new KernelDeviceOptions();
        foreach ((string key, string value) in list.Settings)
        {
            switch (key)
            {
                case "socket" when !kernel:
                    options = options with { Socket = value };
                    break;
                case "host" when kernel:
                    place = place with { Host = Host(value) };
                    break;
                case "fd" when kernel:
                    place = place with { Descriptor = Descriptor(value) };
                    break;
                case "host-iommu" when kernel:
                    place = place with { Iommu = HostIommu(value) };
                    break;
                case "id":
                    options = options with { Id = Name(value) };
                    break;
                case "enable-migration":
                    options = options with { EnableMigration = Migration(value) };
                    break;
                case "dirty-tracking":
                    options = options with { DirtyTracking = Tracking(value) };
                    break;
                case "map-bars":
                    options = options with { MapBars = Switch(key, value) };
                    break;
                case "reply-timeout" when !kernel:
                    options = options with { ReplyTimeout = Patience(value) };
                    break;
                default:
                    throw new FormatException(
                        $"'{key}' is not a setting of {list.Kind}: {(kernel ? "host, fd, host-iommu" : "socket, reply-timeout")}, id, enable-migration, dirty-tracking and map-bars are");
            }
        }

        if (!kernel)
            return string.IsNullOrEmpty(options.Socket) ? throw new FormatException("vfio-user needs socket=PATH") : options;
        return place.Host is null == place.Descriptor is null
            ? throw new FormatException("vfio needs one of host=ADDRESS and fd=N")
            : options with { Kernel = place };
    }

    /// <summary>Reads <c>on</c> or <c>off</c>.</summary>
    public static bool Switch(string name, string value) => value switch
    {
        "on" => true,
        "off" => false,
        _ => throw new FormatException($"{name} must be on or off, not '{value}'"),
    };

    private static string Host(string value) => value.StartsWith('/') || HostPciAddress.TryParse(value, out _)
        ? value
        : throw new FormatException($"host must be a PCI address as 0000:3b:00.2 or a path in sysfs, not '{value}'");

    private static int Descriptor(string value) => int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number > 2
        ? number
        : throw new FormatException($"fd must be the number of a descriptor above 2, not '{value}'");

    /// <summary>How a device of the kernel is attached.</summary>
    /// <exception cref="FormatException">No such way.</exception>
    public static HostIommuKind HostIommu(string value) => value switch
    {
        "auto" => HostIommuKind.Auto,
        "type1" => HostIommuKind.Type1,
        "iommufd" => HostIommuKind.Iommufd,
        _ => throw new FormatException($"host-iommu must be auto, type1 or iommufd, not '{value}'"),
    };

    /// <summary>"on" is what it was called before there was more than off; it never costs a device its state.</summary>
    private static EnableMigration Migration(string value) => value switch
    {
        "auto" or "on" => EnableMigration.Auto,
        "off" => EnableMigration.Off,
        "force" => EnableMigration.Force,
        _ => throw new FormatException($"enable-migration must be auto, off or force, not '{value}'"),
    };

    private static DirtyTrackingMode Tracking(string value) => value switch
    {
        "auto" => DirtyTrackingMode.Auto,
        "device" => DirtyTrackingMode.Device,
        "iommu" => DirtyTrackingMode.Iommu,
        "pessimistic" => DirtyTrackingMode.Pessimistic,
        "off" => DirtyTrackingMode.Off,
        _ => throw new FormatException($"dirty-tracking must be auto, device, iommu, pessimistic or off, not '{value}'"),
    };

    private static TimeSpan Patience(string value) =>
        Duration.TryParse(value, TimeSpan.FromSeconds(1), out TimeSpan time) && time >= TimeSpan.FromMilliseconds(10) && time <= TimeSpan.FromHours(1)
            ? time
            : throw new FormatException($"reply-timeout '{value}' must be a time from 10ms to 60m");

    private static string Name(string value) =>
        value.Length is > 0 and <= 64 && value.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.')
            ? value
            : throw new FormatException($"id '{value}' must have 1 to 64 letters, digits, '-', '_' or '.'");
}
