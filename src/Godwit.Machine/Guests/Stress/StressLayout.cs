using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>Where the program keeps its state. Everything not listed is allocated upwards from <see cref="Heap"/>.</summary>
internal static class StressLayout
{
    public const int MaxControllers = 4;

    /// <summary><see cref="StressControl"/>.</summary>
    public static Gpa Control => GuestLayout.Control;

    /// <summary>For each controller, how many of its interrupts other CPUs than the first have taken: a word each, see <see cref="RemoteInterrupts"/>.</summary>
    public static Gpa RemoteInterrupts => Control + 0x6000;

    public static Gpa Heap => Control + 0x8000;

    /// <summary><see cref="ControllerState"/> of each controller, a page each.</summary>
    public static Gpa Controller(int index) => Control + 0x2000 + ((ulong)index << RamPage.Shift);
}
