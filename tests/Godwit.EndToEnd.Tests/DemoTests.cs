using System.Diagnostics;
using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary><c>godwit demo</c> in its variants, small.</summary>
public sealed class DemoTests
{
    private static readonly string[] Small =
        ["demo", "--memory", "128M", "--run-for", "2s", "--expect-io", "100", "--expect-mappings", "500", "--downtime-limit", "1s"];

    [Theory]
    [InlineData("unix", "intel", "39")]
    [InlineData("tcp", "intel", "48")]
    [InlineData("unix", "none", "39")]
    public async Task The_proof_holds(string transport, string iommu, string width)
    {
        await using var stage = new Stage();
        int seed = Environment.TickCount & 0xffff;
        GodwitProcess demo = stage.Start([.. Small, "--json", "--transport", transport, "--iommu", iommu, "--aw-bits", width, "--seed", $"{seed}"]);
        int code = await demo.ExitAsync();
        Assert.True(code == 0, $"seed {seed}: exit code {code}\n{demo.All}");
        JsonElement result = JsonDocument.Parse(string.Join('\n', demo.Output)).RootElement;
        Assert.True(result.GetProperty("passed").GetBoolean());
        Assert.Equal(seed, result.GetProperty("options").GetProperty("seed").GetInt32());
        JsonElement migration = result.GetProperty("migration");
        Assert.Equal(32768, migration.GetProperty("pages-compared").GetInt64());
        Assert.Equal(0, migration.GetProperty("pages-differing").GetInt64());
        Assert.True(migration.GetProperty("downtime-us").GetInt64() > 0);
        Assert.Equal(iommu == "intel", migration.GetProperty("mapping-changes").GetInt64() > 0);
        JsonElement guest = result.GetProperty("guest");
        Assert.True(guest.GetProperty("during").GetProperty("io").GetInt64() >= 100);
        Assert.True(guest.GetProperty("after").GetProperty("io").GetInt64() > 0);
        Assert.Equal(0, guest.GetProperty("total").GetProperty("mismatches").GetInt64());
        Assert.True(result.GetProperty("image").GetProperty("written").GetInt64() > 0);
        Assert.Empty(Directory.EnumerateFileSystemEntries(stage.Folder));
    }

    /// <summary>Every kind of vIOMMU: the guest that does I/O in it migrates, and the proof holds.</summary>
    [Theory]
    [InlineData("intel,dma-translation=off,intremap=on", 2)]
    [InlineData("intel,intremap=on", 1)]
    [InlineData("intel,aw-bits=57", 1, "--domain-switches", "50")]
    [InlineData("intel,aw-bits=48,scalable-mode=on", 1)]
    [InlineData("intel,scalable-mode=on,first-stage=off", 1)]
    [InlineData("intel,aw-bits=57,scalable-mode=on", 1, "--guest-tables", "first", "--domain-switches", "50")]
    [InlineData("intel,intremap=on,eim=on", 300)]
    public async Task The_proof_holds_with_every_kind_of_IOMMU(string iommu, int vcpus, params string[] more)
    {
        await using var stage = new Stage();
        GodwitProcess demo = stage.Start([.. Small, "--json", "--iommu", iommu, "--vcpus", $"{vcpus}", .. more]);
        int code = await demo.ExitAsync();
        Assert.True(code == 0, $"exit code {code}\n{demo.All}");
        JsonElement result = JsonDocument.Parse(string.Join('\n', demo.Output)).RootElement;
        Assert.Equal(iommu, result.GetProperty("options").GetProperty("iommu").GetString());
        Assert.Equal(32768, result.GetProperty("migration").GetProperty("pages-compared").GetInt64());
        foreach (string part in (string[])["before", "during", "after"])
        {
            long remote = result.GetProperty("guest").GetProperty(part).GetProperty("remote-interrupts").GetInt64();
            Assert.True(vcpus > 1 == remote > 0, $"{remote} interrupts at vCPU {vcpus - 1} {part} the migration");
        }
    }

    [Fact]
    public async Task Without_a_terminal_it_prints_plain_lines()
    {
        await using var stage = new Stage();
        GodwitProcess demo = stage.Start(Small);
        await demo.SucceedAsync();
        Assert.Contains(demo.Output, line => line == "The proof holds");
        Assert.Contains(demo.Output, line => line.Contains("ok     every page is equal on both sides", StringComparison.Ordinal));
        Assert.DoesNotContain('\u001b', demo.All);
    }

    [Fact]
    public async Task A_proof_that_does_not_hold_fails_the_demo()
    {
        await using var stage = new Stage();
        GodwitProcess demo = stage.Start(
            "demo", "--memory", "128M", "--run-for", "2s", "--expect-io", "1000000000000", "--expect-mappings", "500", "--downtime-limit", "1s");
        Assert.Equal(1, await demo.ExitAsync());
        Assert.Contains(demo.Output, line => line == "The proof does NOT hold");
        Assert.Contains(demo.Output, line => line.Contains("FAILED guest I/O during the migration", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("INT", "Booting")]
    [InlineData("TERM", "Migrating")]
    [InlineData("INT", "round 2")]
    public async Task A_signal_at_any_time_leaves_nothing_behind(string signal, string moment)
    {
        await using var stage = new Stage();
        GodwitProcess demo = stage.Start(["demo", "--memory", "128M", "--run-for", "10m"]);
        await demo.WaitForAsync(moment == "Booting" ? moment : "Letting it run");
        if (moment != "Booting")
        {
            demo = await RestartBriefAsync(stage, demo, moment);
        }

        int[] children = Children(demo.Id);
        Assert.NotEmpty(children);
        await demo.SignalAsync(signal);
        await demo.FailAsync(1, "stopped");
        Assert.DoesNotContain(children, IsAlive);
        Assert.Empty(Directory.EnumerateFileSystemEntries(stage.Folder));
    }

    [Fact]
    public async Task A_killed_demo_takes_its_processes_with_it()
    {
        await using var stage = new Stage();
        GodwitProcess demo = stage.Start(["demo", "--memory", "128M", "--run-for", "10m"]);
        await demo.WaitForAsync("Letting it run");
        int[] children = Children(demo.Id);
        Assert.Equal(4, children.Length);
        await demo.KillAsync();
        await Qmp.UntilAsync(() => Task.FromResult(!children.Any(IsAlive)), $"of {string.Join(", ", children)} some live on");
    }

    [Fact]
    public async Task A_process_that_dies_is_named_with_its_last_lines()
    {
        await using var stage = new Stage();
        GodwitProcess demo = stage.Start(["demo", "--memory", "128M", "--run-for", "10m"]);
        await demo.WaitForAsync("Letting it run");
        int[] children = Children(demo.Id);
        Process.GetProcessById(children[^1]).Kill();
        Assert.Equal(1, await demo.ExitAsync());
        Assert.Contains("ended with exit code 137", demo.All, StringComparison.Ordinal);
        Assert.Contains("monitor at", demo.All, StringComparison.Ordinal);
        Assert.DoesNotContain(children, IsAlive);

        // Files beside the folder belong to the runtime of the process that the test killed.
        Assert.Empty(Directory.EnumerateDirectories(stage.Folder));
    }

    /// <summary>A demo that migrates soon and then stays in pre-copy.</summary>
    private static async Task<GodwitProcess> RestartBriefAsync(Stage stage, GodwitProcess demo, string moment)
    {
        await demo.SignalAsync("INT");
        await demo.ExitAsync();
        GodwitProcess brief = stage.Start(["demo", "--memory", "128M", "--run-for", "4s", "--bandwidth", "1M", "--downtime-limit", "1ms"]);
        await brief.WaitForAsync(moment == "round 2" ? "Migrating" : moment);
        return brief;
    }

    private static int[] Children(int parent) =>
    [
        .. Directory.EnumerateDirectories("/proc").Select(folder => int.TryParse(Path.GetFileName(folder), out int id) ? id : 0)
            .Where(id => id > 0 && ParentOf(id) == parent).Order(),
    ];

    private static bool IsAlive(int id) => ParentOf(id) is not null;

    /// <summary>Field 4 of /proc/PID/stat, after the name in parentheses (proc(5)); null when it has ended.</summary>
    private static int? ParentOf(int id)
    {
        try
        {
            string stat = File.ReadAllText($"/proc/{id}/stat");
            string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            return fields[0] == "Z" ? null : int.Parse(fields[1]);
        }
        catch (IOException)
        {
            return null;
        }
    }
}
