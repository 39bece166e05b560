using System.Text.Json;
using Godwit.Machine;

namespace Godwit.Cli.Tests;

/// <summary>The proof must fail when any one of its conditions does: a proof that always holds proves nothing.</summary>
public sealed class DemoProofTests
{
    private const string Completed =
        """
        {"status":"completed","total-time":4000,"ram":{"total":134217728,"remaining":0,"transferred":1000},"blocked-reasons":[],
         "x-godwit":{"downtime-limit":100,"mappings":{"live":5,"mapped":6000,"unmapped":6000},
          "downtime-microseconds":{"stop-vcpus":10,"load":20,"total":30},"verification-microseconds":5,
          "verification":{"pages-compared":32768,"pages-differing":0,"first-differences":[]},"rounds":[{},{}]}}
        """;

    private const string Idle =
        """{"status":"none","blocked-reasons":[],"x-godwit":{"mappings":{"live":5,"mapped":10,"unmapped":5}}}""";

    [Fact]
    public void A_good_run_passes()
    {
        DemoResult result = Good();
        Assert.True(result.Passed, string.Join('\n', result.Checks.Where(check => !check.Passed)));
        Assert.Equal(11_985, result.MappingChanges);
        Assert.Equal(2_000, result.During.Io);
    }

    [Fact]
    public void Without_an_iommu_no_mapping_changes_are_asked_for()
    {
        DemoResult result = Good();
        DemoSample still = result.Switch with { Migration = Migration(Completed.Replace("\"mapped\":6000,\"unmapped\":6000", "\"mapped\":10,\"unmapped\":5", StringComparison.Ordinal)) };
        Assert.Equal(["mappings changed during the migration"], Failed(result with { Switch = still }));
        Assert.Empty(Failed(result with { Switch = still, Options = result.Options with { Iommu = IommuArgument.Parse("none") } }));
    }

    [Theory]
    [InlineData("\"status\":\"completed\"", "\"status\":\"failed\"", "the migration completed")]
    [InlineData("\"pages-differing\":0", "\"pages-differing\":1", "every page is equal on both sides")]
    [InlineData("\"pages-compared\":32768", "\"pages-compared\":32767", "every page is equal on both sides")]
    [InlineData("\"verification\":{\"pages-compared\":32768,\"pages-differing\":0,\"first-differences\":[]},", "", "every page is equal on both sides")]
    public void What_the_migration_reports_counts(string good, string bad, string failed)
    {
        Assert.Contains(good, Completed, StringComparison.Ordinal);
        DemoResult result = Good();
        DemoSample changed = result.Switch with { Migration = Migration(Completed.Replace(good, bad, StringComparison.Ordinal)) };
        Assert.Equal([failed], Failed(result with { Switch = changed }));
    }

    [Theory]
    [InlineData("mismatches", 1, "all that was read back is right")]
    [InlineData("iommu-faults", 1, "IOMMU faults")]
    [InlineData("reads", 2_100, "guest I/O after the migration")]
    [InlineData("blocks-verified", 2_100, "blocks verified after the migration")]
    public void What_the_guest_reports_at_the_end_counts(string counter, long value, string failed)
    {
        DemoResult result = Good();
        DemoSample end = result.End! with { Guest = Guest(3_000, counter, value) };
        Assert.Equal([failed], Failed(result with { End = end }));
    }

    [Fact]
    public void A_panic_counts()
    {
        DemoResult result = Good();
        GuestView panicked = GuestView.From(JsonDocument.Parse("""{"phase":"panicked","reads":3000,"blocks-verified":3000,"panic":"oh"}""").RootElement);
        Assert.Equal(["the guest is well"], Failed(result with { End = result.End! with { Guest = panicked } }));
    }

    [Fact]
    public void Each_side_must_be_in_its_state()
    {
        Assert.Equal(["the source has let go"], Failed(Good() with { SourceState = "running" }));
        Assert.Equal(["the destination runs"], Failed(Good() with { DestinationState = "paused" }));
    }

    [Fact]
    public void The_image_counts()
    {
        Assert.Equal(["the disk image holds what the guest wrote"], Failed(Good() with { Image = new StressImageReport(10, 9, 0, 1, ["block 3"]) }));
        Assert.Equal(["the disk image holds what the guest wrote"], Failed(Good() with { Image = new StressImageReport(10, 0, 10, 0, []) }));
    }

    [Fact]
    public void Too_little_during_the_migration_counts()
    {
        DemoResult result = Good();
        Assert.Equal(["guest I/O during the migration"], Failed(result with { Options = result.Options with { ExpectIo = 2_001 } }));
        Assert.Equal(["mappings changed during the migration"], Failed(result with { Options = result.Options with { ExpectMappings = 11_986 } }));
    }

    [Fact]
    public void A_migration_that_failed_is_no_proof_even_if_nothing_else_is_known() =>
        Assert.Contains("the destination runs", Failed(Good() with { End = null, DestinationState = null, Image = null }));

    [Fact]
    public void A_result_prints_every_condition()
    {
        DemoResult result = Good();
        Assert.Equal(result.Checks.Select(check => check.Name), DemoTables.Proof(result).Rows.Select(row => row.Name));
        Assert.Contains("NOT", DemoTables.Proof(result with { SourceState = "running" }).Title, StringComparison.Ordinal);
    }

    private static IEnumerable<string> Failed(DemoResult result) => result.Checks.Where(check => !check.Passed).Select(check => check.Name);

    private static DemoResult Good() => new()
    {
        Options = new DemoOptions
        {
            Memory = 128UL << 20,
            RunFor = TimeSpan.FromSeconds(4),
            DirtyRate = 64,
            Churn = 1000,
            QueueDepth = 32,
            Iommu = IommuArgument.Default,
            Vcpus = 1,
            DomainSwitches = 0,
            GuestTables = "second",
            DowntimeLimit = TimeSpan.FromMilliseconds(100),
            Bandwidth = 0,
            LogRanges = 256,
            LogSpanMax = 0,
            Transport = DemoTransport.Unix,
            Seed = 1,
            ExpectIo = 1000,
            ExpectMappings = 10_000,
        },
        CommandLines = [],
        Begin = new DemoSample(Guest(100), Migration(Idle)),
        Switch = new DemoSample(Guest(2_100), Migration(Completed)),
        SourceState = "postmigrate",
        End = new DemoSample(Guest(3_000), Migration(Idle)),
        DestinationState = "running",
        Image = new StressImageReport(10, 10, 0, 0, []),
    };

    private static MigrationView Migration(string json) => MigrationView.From(JsonDocument.Parse(json).RootElement);

    private static GuestView Guest(long done, string? counter = null, long value = 0)
    {
        var counters = new Dictionary<string, object>(StringComparer.Ordinal)
        {
            ["phase"] = "running",
            ["reads"] = done,
            ["blocks-verified"] = done,
            ["mismatches"] = 0,
            ["iommu-faults"] = 0,
        };
        if (counter is not null)
        {
            counters[counter] = value;
        }

        return GuestView.From(JsonSerializer.SerializeToElement(counters));
    }
}
