using System.Globalization;

namespace Godwit.Vfio;

/// <summary>Where a PCI function is in the host: the name that sysfs gives it, as <c>0000:3b:00.2</c>.</summary>
/// <param name="Domain">Segment.</param>
/// <param name="Bus">Bus number.</param>
/// <param name="Slot">0 to 31.</param>
/// <param name="Function">0 to 7.</param>
public readonly record struct HostPciAddress(int Domain, byte Bus, byte Slot, byte Function)
{
    /// <summary>Reads <c>DDDD:BB:SS.F</c> or <c>BB:SS.F</c>, hexadecimal; false when <paramref name="text"/> is neither.</summary>
    public static bool TryParse(string text, out HostPciAddress address)
    {
        ArgumentNullException.ThrowIfNull(text);
        address = default;
        string[] parts = text.Split(':');
        if (parts.Length is not (2 or 3))
            return false;
        string[] place = parts[^1].Split('.');
        if (place.Length != 2 || !Hex(place[0], 2, 0x1F, out int slot) || !Hex(place[1], 1, 7, out int function) || !Hex(parts[^2], 2, 0xFF, out int bus))
            return false;
        int domain = 0;
        // Domains of more than four digits exist (Intel VMD).
        if (parts.Length == 3 && !Hex(parts[0], 8, int.MaxValue, out domain))
            return false;
        address = new HostPciAddress(domain, (byte)bus, (byte)slot, (byte)function);
        return true;
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Domain:x4}:{Bus:x2}:{Slot:x2}.{Function:x}";

    private static bool Hex(string text, int digits, int limit, out int value)
    {
        value = 0;
        return text.Length >= 1 && text.Length <= digits
            && int.TryParse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value) && value >= 0 && value <= limit;
    }
}
