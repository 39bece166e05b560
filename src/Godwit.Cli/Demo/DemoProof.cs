namespace Godwit.Cli;

/// <summary>Decides whether a demo proved what it is there to prove. Takes data and returns data.</summary>
internal static class DemoProof
{
    public static IReadOnlyList<DemoCheck> Evaluate(DemoResult result)
    {
        MigrationView migration = result.Switch.Migration;
        var checks = new List<DemoCheck>
        {
            new("the migration completed", migration.Completed, migration.Completed ? "completed" : MigrationLines.Summary(migration)),
            Pages(result),
            new("guest I/O before the migration", result.Before.Io > 0, $"{result.Before.Io} commands"),
            AtLeast("guest I/O during the migration", result.During.Io, result.Options.ExpectIo, "commands"),
        };
        if (result.Options.Translates)
        {
            checks.Add(AtLeast("mappings changed during the migration", result.MappingChanges, result.Options.ExpectMappings, "changes"));
        }

        if (result.Options.DomainSwitches > 0)
        {
            checks.Add(AtLeast("domain switches during the migration", result.During.DomainSwitches, 1, "switches"));
        }

        if (result.Options.Vcpus > 1)
        {
            checks.Add(AtLeast($"interrupts at vCPU {result.Options.Vcpus - 1} during the migration", result.During.RemoteInterrupts, 1, "taken"));
        }

        checks.Add(new("the source has let go", result.SourceState == "postmigrate", result.SourceState));
        AddDestination(checks, result);
        return checks;
    }

    private static DemoCheck Pages(DemoResult result)
    {
        MigrationView migration = result.Switch.Migration;
        long compared = migration.PagesCompared ?? 0;
        bool passed = compared == result.Options.Pages && migration.PagesDiffering == 0;
        string differences = migration.FirstDifferences.Count == 0 ? string.Empty : $": {string.Join(", ", migration.FirstDifferences)}";
        return new("every page is equal on both sides", passed, $"{compared} of {result.Options.Pages} compared, {migration.PagesDiffering} differ{differences}");
    }

    private static void AddDestination(List<DemoCheck> checks, DemoResult result)
    {
        const string Running = "the destination runs";
        if (result is not { End: { } end, After: { } after, DestinationState: { } state, Image: { } image })
        {
            checks.Add(new(Running, false, "it never did"));
            return;
        }

        GuestView guest = end.Guest;
        string details = guest.MismatchDetails.Count == 0 ? string.Empty : $": {string.Join("; ", guest.MismatchDetails.Take(3))}";
        string wrong = image.FirstWrong.Count == 0 ? string.Empty : $": {string.Join("; ", image.FirstWrong)}";
        checks.Add(new(Running, state == "running", state));
        checks.Add(new("the guest is well", guest.Panic is null, guest.Panic ?? guest.Phase));
        checks.Add(new("guest I/O after the migration", after.Io > 0, $"{after.Io} commands"));
        checks.Add(new(
            "all that was read back is right",
            guest.Mismatches == 0 && guest.BlocksVerified > 0,
            $"{guest.BlocksVerified} blocks verified, {guest.Mismatches} mismatches{details}"));
        if (result.Options.Vcpus > 1)
        {
            checks.Add(AtLeast($"interrupts at vCPU {result.Options.Vcpus - 1} after the migration", after.RemoteInterrupts, 1, "taken"));
        }

        checks.Add(new("blocks verified after the migration", after.BlocksVerified > 0, $"{after.BlocksVerified} blocks"));
        checks.Add(new("IOMMU faults", guest.IommuFaults == 0, $"{guest.IommuFaults}"));
        checks.Add(new(
            "the disk image holds what the guest wrote",
            image.Wrong == 0 && image.Written > 0,
            $"{image.Written} blocks written, {image.Empty} empty, {image.Wrong} wrong{wrong}"));
    }

    private static DemoCheck AtLeast(string name, long value, long least, string unit) =>
        new(name, value >= least, $"{value} {unit}, at least {least} expected");
}
