namespace Godwit.Cli;

/// <summary>A table with a title and rows of a name and a value; a row may be marked as failed.</summary>
internal sealed record DemoTable(string Title, IReadOnlyList<(string Name, string Value, bool? Passed)> Rows);

/// <summary>What is shown of a result, independent of how.</summary>
internal static class DemoTables
{
    /// <summary>The migration itself.</summary>
    public static DemoTable Migration(DemoResult result)
    {
        MigrationView migration = result.Switch.Migration;
        var rows = new List<(string, string, bool?)>
        {
            ("total time", Duration.Rounded(migration.TotalTime), null),
            ("downtime", $"{MigrationLines.Downtime(migration)} ({Duration.Rounded(migration.DowntimeLimit)} allowed)", null),
        };
        foreach ((string part, TimeSpan time) in migration.DowntimeParts)
        {
            rows.Add(($"  {part}", Duration.Rounded(time), null));
        }

        rows.Add(("page comparison, beside it", Duration.Rounded(migration.Verification), null));
        rows.Add(("bytes of RAM", $"{ByteSize.Rounded(migration.RamTransferred)} ({migration.NormalPages} pages, {migration.ZeroPages} zero pages)", null));
        rows.Add(("bytes of device state", ByteSize.Rounded(migration.DeviceStateBytes), null));
        rows.Add(("bytes of machine state", ByteSize.Rounded(migration.MachineStateBytes), null));
        rows.Add(("bytes of framing", ByteSize.Rounded(migration.OverheadBytes), null));
        rows.Add(("rounds", $"{migration.Rounds}", null));
        foreach (DirtyView device in result.Tracking)
        {
            rows.Add(($"{device.Device} is followed by", DirtyLines.Summary(device), null));
            rows.Add(("log started anew to follow the guest", $"{device.Rearms} times", null));
        }

        rows.Add(("pages outside the log, at worst", $"{migration.UncoveredPages}", null));
        rows.Add(("device log reports", $"{migration.LogReports}", null));
        rows.Add(("mappings live at the switch", $"{migration.MappingsLive}", null));
        rows.Add(("mappings changed during the migration", $"{result.MappingChanges}", null));
        return new DemoTable("The migration", rows);
    }

    /// <summary>What the guest did.</summary>
    public static DemoTable Guest(DemoResult result)
    {
        string Row(Func<GuestView, long> count) =>
            $"{count(result.Before),9} before {count(result.During),9} during {(result.After is { } after ? count(after) : 0),9} after";
        return new DemoTable("The guest", [
            ("I/O commands", Row(guest => guest.Io), null),
            ("blocks verified", Row(guest => guest.BlocksVerified), null),
            ("pages mapped", Row(guest => guest.Maps), null),
            ("pages unmapped", Row(guest => guest.Unmaps), null),
            ("interrupts", Row(guest => guest.Interrupts), null),
            ("  of them at another vCPU", Row(guest => guest.RemoteInterrupts), null),
            ("domain switches", Row(guest => guest.DomainSwitches), null),
            ("pages dirtied by the CPU", Row(guest => guest.CpuPagesDirtied), null),
        ]);
    }

    /// <summary>The proof.</summary>
    public static DemoTable Proof(DemoResult result) => new(
        result.Passed ? "The proof holds" : "The proof does NOT hold",
        [.. result.Checks.Select(check => (check.Name, check.Detail, (bool?)check.Passed))]);
}
