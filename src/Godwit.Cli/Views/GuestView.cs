using System.Text.Json;

namespace Godwit.Cli;

/// <summary>What <c>x-query-guest</c> says.</summary>
internal sealed record GuestView
{
    public string Name { get; private init; } = string.Empty;

    public string Phase { get; private init; } = string.Empty;

    public long Reads { get; private init; }

    public long Writes { get; private init; }

    public long OtherCommands { get; private init; }

    public long BlocksVerified { get; private init; }

    public long PagesVerified { get; private init; }

    public long Mismatches { get; private init; }

    public IReadOnlyList<string> MismatchDetails { get; private init; } = [];

    public long Maps { get; private init; }

    public long Unmaps { get; private init; }

    public long Interrupts { get; private init; }

    public long RemoteInterrupts { get; private init; }

    public long CpuPagesDirtied { get; private init; }

    public long IommuFaults { get; private init; }

    public long DomainSwitches { get; private init; }

    public string? Panic { get; private init; }

    /// <summary>Commands completed.</summary>
    public long Io => Reads + Writes + OtherCommands;

    public static GuestView From(JsonElement reply) => new()
    {
        Name = reply.Text("name") ?? string.Empty,
        Phase = reply.Text("phase") ?? string.Empty,
        Reads = reply.Long("reads"),
        Writes = reply.Long("writes"),
        OtherCommands = reply.Long("other-commands"),
        BlocksVerified = reply.Long("blocks-verified"),
        PagesVerified = reply.Long("pages-verified"),
        Mismatches = reply.Long("mismatches"),
        MismatchDetails = reply.Texts("mismatch-details"),
        Maps = reply.Long("maps"),
        Unmaps = reply.Long("unmaps"),
        Interrupts = reply.Long("interrupts"),
        RemoteInterrupts = reply.Long("remote-interrupts"),
        CpuPagesDirtied = reply.Long("cpu-pages-dirtied"),
        IommuFaults = reply.Long("iommu-faults"),
        DomainSwitches = reply.Long("domain-switches"),
        Panic = reply.Text("panic"),
    };

    /// <summary>What was done between <paramref name="earlier"/> and this. Mismatches, faults and words are taken as they are now.</summary>
    public GuestView Since(GuestView earlier) => this with
    {
        Reads = Reads - earlier.Reads,
        Writes = Writes - earlier.Writes,
        OtherCommands = OtherCommands - earlier.OtherCommands,
        BlocksVerified = BlocksVerified - earlier.BlocksVerified,
        PagesVerified = PagesVerified - earlier.PagesVerified,
        Maps = Maps - earlier.Maps,
        Unmaps = Unmaps - earlier.Unmaps,
        Interrupts = Interrupts - earlier.Interrupts,
        RemoteInterrupts = RemoteInterrupts - earlier.RemoteInterrupts,
        DomainSwitches = DomainSwitches - earlier.DomainSwitches,
        CpuPagesDirtied = CpuPagesDirtied - earlier.CpuPagesDirtied,
    };
}
