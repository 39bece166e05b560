using Godwit.Memory;

namespace Godwit.Machine.Guests;

/// <summary>Where every program that keeps state in RAM has it.</summary>
internal static class GuestLayout
{
    /// <summary>The program's control block, less than 0x800 bytes.</summary>
    public static Gpa Control => BoardLayout.FirmwareEnd;

    /// <summary>See <see cref="Guests.PanicText"/>.</summary>
    public static Gpa PanicText => Control + 0x800;

    /// <summary>See <see cref="MismatchLog"/>; a page.</summary>
    public static Gpa Log => Control + 0x1000;
}
