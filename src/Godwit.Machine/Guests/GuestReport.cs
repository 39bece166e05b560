namespace Godwit.Machine;

/// <summary>
/// What the guest program says of itself, read from its own memory: counters since it booted, wherever that was. Numbers that the guest
/// has damaged are shown as they are.
/// </summary>
public sealed record GuestReport
{
    /// <summary>The program.</summary>
    public required string Name { get; init; }

    /// <summary>Where it is, for people.</summary>
    public required string Phase { get; init; }

    /// <summary>Read commands completed.</summary>
    public long Reads { get; init; }

    /// <summary>Write commands completed.</summary>
    public long Writes { get; init; }

    /// <summary>Flush, write-zeroes and deallocate commands completed.</summary>
    public long OtherCommands { get; init; }

    /// <summary>Blocks of 4 KiB read from the disk and compared with what must be there.</summary>
    public long BlocksVerified { get; init; }

    /// <summary>Pages of memory compared with what must be there.</summary>
    public long PagesVerified { get; init; }

    /// <summary>Blocks, pages, completions and interrupts that were not as they must be.</summary>
    public long Mismatches { get; init; }

    /// <summary>The first of them, one line each.</summary>
    public IReadOnlyList<string> MismatchDetails { get; init; } = [];

    /// <summary>Pages mapped for DMA.</summary>
    public long Maps { get; init; }

    /// <summary>Pages unmapped.</summary>
    public long Unmaps { get; init; }

    /// <summary>Interrupts taken.</summary>
    public long Interrupts { get; init; }

    /// <summary>Those of them that a device sent to another vCPU than the first.</summary>
    public long RemoteInterrupts { get; init; }

    /// <summary>Pages written by the CPU to dirty them.</summary>
    public long CpuPagesDirtied { get; init; }

    /// <summary>Faults that the vIOMMU recorded.</summary>
    public long IommuFaults { get; init; }

    /// <summary>Times that a device was put into another domain or into pass-through.</summary>
    public long DomainSwitches { get; init; }

    /// <summary>Why the guest cannot go on, or null.</summary>
    public string? Panic { get; init; }
}
