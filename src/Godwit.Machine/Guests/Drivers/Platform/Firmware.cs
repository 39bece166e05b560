using System.Runtime.CompilerServices;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>What a guest finds at power-on beside the ACPI tables.</summary>
internal static class Firmware
{
    /// <summary>Reads the boot loader's page.</summary>
    /// <exception cref="GuestPanicException">There is none, or it is damaged.</exception>
    [SkipLocalsInit]
    public static BootInfo ReadBootInfo(GuestBus bus)
    {
        Span<byte> page = stackalloc byte[BootInfo.PageSize];
        bus.Load(BoardLayout.BootInfo, page);
        return BootInfo.TryParse(page, out BootInfo info)
            ? info
            : throw new GuestPanicException($"no boot information at {BoardLayout.BootInfo}");
    }
}
