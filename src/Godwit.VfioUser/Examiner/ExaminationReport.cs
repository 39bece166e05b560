namespace Godwit.VfioUser;

/// <summary>How one check came out.</summary>
public enum CheckOutcome
{
    /// <summary>The device does it right.</summary>
    Pass,

    /// <summary>The device does it wrong.</summary>
    Fail,

    /// <summary>The device does not have what the check is about, or it cannot be looked at.</summary>
    NotOffered,
}

/// <summary>One line of the checklist.</summary>
/// <param name="Name">Its name, group first: <c>dma.overlap</c>.</param>
/// <param name="Meaning">What a right device does.</param>
/// <param name="Outcome">How it came out.</param>
/// <param name="Why">What was seen instead, or why there was nothing to see; null after a pass.</param>
public sealed record CheckResult(string Name, string Meaning, CheckOutcome Outcome, string? Why);

/// <summary>The whole checklist.</summary>
/// <param name="Results">In the order of the examination.</param>
public sealed record ExaminationReport(IReadOnlyList<CheckResult> Results)
{
    /// <summary>Whether nothing failed.</summary>
    public bool Passed => Count(CheckOutcome.Fail) == 0;

    /// <summary>Checks that came out so.</summary>
    public int Count(CheckOutcome outcome) => Results.Count(result => result.Outcome == outcome);
}

/// <summary>Whom to examine, and how patiently.</summary>
public sealed record DeviceExaminerOptions
{
    /// <summary>Path of the device's socket. Nobody else may be connected.</summary>
    public required string Socket { get; init; }

    /// <summary>Path of another instance of the device, to restore saved state into; null restores into the same one after a reset.</summary>
    public string? Second { get; init; }

    /// <summary>How long the device may take for one answer.</summary>
    public TimeSpan ReplyTimeout { get; init; } = TimeSpan.FromSeconds(5);
}

/// <summary>A check that came to its end early: the device is wrong, or has nothing to be looked at.</summary>
internal sealed class CheckException(CheckOutcome outcome, string why, bool connectionIsUnusable = false) : Exception(why)
{
    public CheckOutcome Outcome { get; } = outcome;

    public bool ConnectionIsUnusable { get; } = connectionIsUnusable;
}
