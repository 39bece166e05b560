using Godwit.Machine;

namespace Godwit.Cli;

/// <summary>One condition of the proof.</summary>
/// <param name="Name">What must hold.</param>
/// <param name="Passed">Whether it does.</param>
/// <param name="Detail">The numbers behind it.</param>
internal sealed record DemoCheck(string Name, bool Passed, string Detail);

/// <summary>What one side of the demo was like at one moment.</summary>
/// <param name="Guest">The guest's own counters.</param>
/// <param name="Migration">The machine's migration and mappings.</param>
internal sealed record DemoSample(GuestView Guest, MigrationView Migration);

/// <summary>Everything that a demo has found out.</summary>
internal sealed record DemoResult
{
    public required DemoOptions Options { get; init; }

    /// <summary>What was started, as a person would type it.</summary>
    public required IReadOnlyList<string> CommandLines { get; init; }

    /// <summary>The source when the migration began.</summary>
    public required DemoSample Begin { get; init; }

    /// <summary>The source when it had ended; its guest is as it was when its vCPUs stopped.</summary>
    public required DemoSample Switch { get; init; }

    /// <summary>Run state of the source after the migration.</summary>
    public required string SourceState { get; init; }

    /// <summary>How the source's devices were followed, device by device.</summary>
    public IReadOnlyList<DirtyView> Tracking { get; init; } = [];

    /// <summary>The destination at the end, stopped. Null when the migration did not complete.</summary>
    public DemoSample? End { get; init; }

    /// <summary>The destination's run state before it was stopped.</summary>
    public string? DestinationState { get; init; }

    /// <summary>What the image holds when everything has ended. Null when the migration did not complete.</summary>
    public StressImageReport? Image { get; init; }

    /// <summary>The guest's doings before the migration.</summary>
    public GuestView Before => Begin.Guest;

    /// <summary>During it.</summary>
    public GuestView During => Switch.Guest.Since(Begin.Guest);

    /// <summary>After it, on the destination.</summary>
    public GuestView? After => End?.Guest.Since(Switch.Guest);

    /// <summary>Mappings made and withdrawn by the vIOMMU during the migration.</summary>
    public long MappingChanges => Switch.Migration.MappingChanges - Begin.Migration.MappingChanges;

    /// <summary>The proof, condition by condition.</summary>
    public IReadOnlyList<DemoCheck> Checks => DemoProof.Evaluate(this);

    /// <summary>Whether all of it holds.</summary>
    public bool Passed => Checks.All(check => check.Passed);
}
