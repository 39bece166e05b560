using Godwit.Vfio;

namespace Godwit.Cli;

/// <summary>The argument of <c>--device</c>: <c>vfio-user,socket=PATH[,id=NAME][,enable-migration=on|off][,dirty-tracking=MODE][,reply-timeout=TIME]</c>.</summary>
internal static class DeviceArgument
{
    /// <summary>Reads <paramref name="text"/>; a device without an id gets <c>vfioN</c> by <paramref name="position"/>.</summary>
    /// <exception cref="FormatException">What is wrong with it.</exception>
    public static VfioDeviceOptions Parse(string text, int position)
    {
        KeyValueList list = KeyValueList.Parse(text);
        if (list.Kind != "vfio-user")
        {
            throw new FormatException($"device '{list.Kind}' is not known: vfio-user is");
        }

        string? socket = null;
        string id = $"vfio{position}";
        bool migration = true;
        DirtyTrackingMode tracking = DirtyTrackingMode.Auto;
        TimeSpan? patience = null;
        foreach ((string key, string value) in list.Settings)
        {
            switch (key)
            {
                case "socket":
                    socket = value;
                    break;
                case "id":
                    id = Name(value);
                    break;
                case "enable-migration":
                    migration = Switch(key, value);
                    break;
                case "dirty-tracking":
                    tracking = Tracking(value);
                    break;
                case "reply-timeout":
                    patience = Patience(value);
                    break;
                default:
                    throw new FormatException($"'{key}' is not a setting of vfio-user: socket, id, enable-migration, dirty-tracking and reply-timeout are");
            }
        }

        if (string.IsNullOrEmpty(socket))
        {
            throw new FormatException("vfio-user needs socket=PATH");
        }

        var options = new VfioDeviceOptions { Id = id, Socket = socket, EnableMigration = migration, DirtyTracking = tracking };
        return patience is { } time ? options with { ReplyTimeout = time } : options;
    }

    /// <summary>Reads <c>on</c> or <c>off</c>.</summary>
    public static bool Switch(string name, string value) => value switch
    {
        "on" => true,
        "off" => false,
        _ => throw new FormatException($"{name} must be on or off, not '{value}'"),
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
