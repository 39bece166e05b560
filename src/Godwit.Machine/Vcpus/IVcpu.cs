using System.Buffers;

namespace Godwit.Machine;

/// <summary>
/// The seam between the machine and what executes its guest: managed programs now, KVM next. A vCPU starts stopped. Members may be called
/// from any thread; <see cref="Save"/> and <see cref="Load"/> only while it is stopped.
/// </summary>
internal interface IVcpu : IDisposable
{
    /// <summary>Id of its local APIC, by which interrupt messages address it.</summary>
    uint ApicId { get; }

    /// <summary>Why it will never execute again, or null. Part of its state: survives a migration.</summary>
    string? PanicText { get; }

    /// <summary>Lets it execute and returns at once; takes back a stop request that has not been honoured yet.</summary>
    void Run();

    /// <summary>Asks it to stop at the next point where its state is whole, and returns at once.</summary>
    void RequestStop();

    /// <summary>
    /// Waits until it executes nothing and all its writes are marked dirty. False when that does not happen before
    /// <paramref name="deadline"/> passes; the request stays.
    /// </summary>
    bool WaitStopped(TimeSpan deadline);

    /// <summary>From now on executes nothing for <paramref name="percent"/> of the time, 0 to 99. Stops and interrupts come as before.</summary>
    void Throttle(int percent);

    /// <summary>Raises a vector at its local APIC; wakes it when halted.</summary>
    void Interrupt(byte vector);

    /// <summary>Version of the state that <see cref="Save"/> writes.</summary>
    int StateVersion { get; }

    /// <summary>Appends registers, local APIC and clock.</summary>
    void Save(IBufferWriter<byte> writer);

    /// <summary>Takes them over. Throws <see cref="InvalidDataException"/> for a state that cannot be.</summary>
    void Load(int version, ReadOnlySpan<byte> state);
}
