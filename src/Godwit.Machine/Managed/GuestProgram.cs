namespace Godwit.Machine.Managed;

/// <summary>
/// A guest: what a managed vCPU executes. The object holds no mutable state and caches nothing: all that a program knows is in guest RAM
/// and in the register file, so that it resumes on another machine like any guest.
/// </summary>
internal abstract class GuestProgram
{
    /// <summary>Name in <see cref="GuestPrograms"/>.</summary>
    public abstract string Name { get; }

    /// <summary>
    /// Executes one short step (well below a millisecond, bounded whatever RAM holds). State is whole between steps. An exception is a
    /// guest panic.
    /// </summary>
    public abstract void Step(GuestCpu cpu);

    /// <summary>Handles one interrupt, with interrupts disabled; as short as a step.</summary>
    public abstract void Interrupt(GuestCpu cpu, byte vector);

    /// <summary>The program cannot go on: notes the reason in guest RAM. May fail when RAM is damaged.</summary>
    public abstract void Panic(GuestCpu cpu, string text);

    /// <summary>What the guest's memory says of it. Host side, any thread, whatever RAM holds.</summary>
    public abstract GuestReport ReadReport(GuestBus memory);
}

/// <summary>The guest gives up, on purpose; the text is for people.</summary>
internal sealed class GuestPanicException(string message) : Exception(message);
