using System.Text.Json;

namespace Godwit.Cli.Tests;

/// <summary>How a device's writes are followed, as people read it.</summary>
public sealed class DirtyLinesTests
{
    private const string ByUse = """
        [{"device": "nvme0", "mode": "auto", "source": "device-log", "active": true,
          "coverage": {"text": "what is mapped, with room around it", "by-use": true, "ranges": 2, "bytes": 16777216, "budget-used": 0.25},
          "limits": {"text": "logs 4 ranges of 4 KiB to 64 MiB together, by pages of 4 KiB", "takes-anything": true, "takes-whole-aperture": false,
                     "page-bytes": 4096, "max-ranges": 4, "min-span": 4096, "max-span": 67108864, "span-includes-gaps": false, "refusal": "ENOTSUP"},
          "uncovered-pages": 12, "rearms": 1, "syncs": 10, "sync-microseconds": 25000, "reports": 45, "bits-asked": 40960,
          "pages-reported": 77, "harvests": 5000, "harvests-pending": 3}]
        """;

    [Fact]
    public void EverythingIsSaidInFullWhileAMigrationIsFollowed()
    {
        DirtyView view = Assert.Single(View(ByUse));
        Assert.Equal(
            [
                ("source", "the device's log (dirty-tracking=auto)"),
                ("accepts", "logs 4 ranges of 4 KiB to 64 MiB together, by pages of 4 KiB"),
                ("state", "following a migration"),
                ("coverage", "what is mapped, with room around it: 16.0 MiB in 2 ranges, 25 % of the 64.0 MiB that it takes"),
                ("uncovered", "12 pages (48.0 KiB) at the last sync, sent in every round"),
                ("re-arms", "1"),
                ("syncs", "10, each with 4.5 reports of 4096 bits in all, 2.5 ms"),
                ("found", "77 pages"),
                ("unmaps", "5000 batches, 3 mappings wait for the next round"),
            ],
            DirtyLines.Explain(view));
        Assert.Equal("the device's log; it logs 4 ranges of 4 KiB to 64 MiB together, by pages of 4 KiB", DirtyLines.Summary(view));
    }

    [Fact]
    public void BeforeAnyMigrationThereIsLittleToSay()
    {
        DirtyView view = Assert.Single(View("""[{"device": "a", "mode": "pessimistic", "source": "pessimistic", "active": false, "syncs": 0}]"""));
        Assert.Equal(
            [("source", "all that it can write counts as written (dirty-tracking=pessimistic)"), ("state", "no migration yet")], DirtyLines.Explain(view));
    }

    [Fact]
    public void WithoutASourceNothingElseMatters()
    {
        DirtyView view = Assert.Single(View("""[{"device": "a", "mode": "off", "source": "none", "active": false}]"""));
        Assert.Equal([("source", "nothing (dirty-tracking=off)")], DirtyLines.Explain(view));
    }

    [Fact]
    public void AnotherProgramsAnswerDoesNoHarm()
    {
        Assert.Empty(View("{}"));
        Assert.Equal("nothing", DirtyLines.Summary(Assert.Single(View("[{}]"))));
    }

    [Fact]
    public void AMigrationWithoutProgressSaysSoAndWhatIsInTheWay()
    {
        MigrationView view = MigrationView.From(JsonDocument.Parse(
            """{"status": "active", "x-godwit": {"convergence": {"outpaced": true, "rounds-without-progress": 4, "obstacle": "device-writes"}}}""").RootElement);
        Assert.EndsWith("NO PROGRESS for 4 rounds: devices write memory as fast as it is sent", MigrationLines.Progress(view), StringComparison.Ordinal);
        MigrationView early = MigrationView.From(JsonDocument.Parse(
            """{"status": "active", "x-godwit": {"convergence": {"outpaced": false, "rounds-without-progress": 2, "obstacle": "device-writes"}}}""").RootElement);
        Assert.DoesNotContain("NO PROGRESS", MigrationLines.Progress(early), StringComparison.Ordinal);
    }

    private static IReadOnlyList<DirtyView> View(string json) => DirtyView.From(JsonDocument.Parse(json).RootElement);
}
