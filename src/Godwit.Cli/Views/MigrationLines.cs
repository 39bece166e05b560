namespace Godwit.Cli;

/// <summary>A migration in words, for plain output.</summary>
internal static class MigrationLines
{
    /// <summary>How it is, in one line.</summary>
    public static string Summary(MigrationView view) => view.Status switch
    {
        "none" => view.ListeningAt is { } at ? $"none yet, waiting at {at}" : "none",
        "completed" => $"completed in {Duration.Rounded(view.TotalTime)}, downtime {Downtime(view)}, {Ram(view)}",
        "failed" or "cancelled" => view.Error is { } error ? $"{view.Status}: {error}" : view.Status,
        _ => Progress(view),
    };

    /// <summary>How RAM went over.</summary>
    public static string Ram(MigrationView view) => view.RamByFile > 0
        ? $"{ByteSize.Rounded(view.RamByFile)} of RAM handed over, none copied"
        : $"{ByteSize.Rounded(view.RamTransferred)} of RAM sent";

    /// <summary>How far it is, in one line.</summary>
    public static string Progress(MigrationView view) =>
        $"{view.Status}: round {view.Rounds}, {ByteSize.Rounded(view.RamRemaining)} remain, {ByteSize.Rounded(view.BytesPerSecond)}/s, "
        + $"dirtied/s vCPU {view.DirtyVcpu:0} device {view.DirtyDevice:0} VMM {view.DirtyVmm:0} pages, "
        + $"downtime {(view.ExpectedDowntime is { } expected ? Duration.Rounded(expected) : "not known")} of {Duration.Rounded(view.DowntimeLimit)}"
        + (view.ExpectedDowntime is null ? string.Empty : ExpectedParts(view))
        + (view.ThrottlePercent > 0 ? $", vCPUs slowed by {view.ThrottlePercent} %" : string.Empty)
        + string.Concat(view.DeviceStates.Select(device => $", {device.Key} {device.Value}"))
        + (view.OutpacedRounds > 0 ? $", NO PROGRESS for {view.OutpacedRounds} rounds: {Obstacle(view.Obstacle)}" : string.Empty);

    /// <summary>What the expected downtime is made of, in brackets; empty when that is not known.</summary>
    public static string ExpectedParts(MigrationView view) =>
        view.ExpectedParts.Count == 0 ? string.Empty : $" ({string.Join(", ", view.ExpectedParts.Select(part => $"{part.Key} {Duration.Rounded(part.Value)}"))})";

    /// <summary>What keeps a migration from converging.</summary>
    public static string Obstacle(string obstacle) => obstacle switch
    {
        "switchover-time" => "the switchover alone takes longer than the downtime limit",
        "destination-time" => "loading and starting on the destination alone take longer than the downtime limit",
        "device-state" => "the state of the devices alone takes longer than the downtime limit",
        "uncovered-pages" => "what devices may write unseen and is sent in every round takes longer than the downtime limit",
        "device-writes" => "devices write memory as fast as it is sent",
        "guest-writes" => "vCPUs write memory as fast as it is sent",
        _ => obstacle,
    };

    /// <summary>The downtime, when it is known.</summary>
    public static string Downtime(MigrationView view) => view.Downtime is { } downtime ? Duration.Rounded(downtime) : "not known";

    /// <summary>Part of RAM that needs no further transfer, 0 to 1.</summary>
    public static double Fraction(MigrationView view) => view switch
    {
        { Completed: true } => 1,
        { RamTotal: > 0 } => Math.Clamp(1 - ((double)view.RamRemaining / view.RamTotal), 0, 1),
        _ => 0,
    };
}
