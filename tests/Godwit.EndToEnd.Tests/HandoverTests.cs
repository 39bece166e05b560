using System.Globalization;
using System.Text.Json;
using Godwit.Monitor;

namespace Godwit.EndToEnd.Tests;

/// <summary>A running guest is handed over from process to process on one host: its RAM stays where it is.</summary>
public sealed class HandoverTests(ITestOutputHelper output)
{
    private const long Ram = 128L << 20;
    private const int Moves = 10;

    private static readonly string Guest = $"nvme-stress,disk=optional,working-set=32M,dirty-rate=64,seed={Environment.TickCount & 0xffff}";

    [Fact]
    public async Task A_guest_is_handed_over_ten_times_in_the_same_RAM_and_nothing_grows()
    {
        await using var stage = new Stage();
        GodwitProcess machine = await StartAsync(stage, "vm0");
        Qmp monitor = await stage.QmpAsync("vm0");
        await GuestVerifiesAsync(monitor);
        string inode = InodeOfRam(machine);
        var sizes = new List<(int Files, double Megabytes)>();
        for (int move = 1; move <= Moves; move++)
        {
            string name = $"vm{move}";
            GodwitProcess next = await StartAsync(stage, name, "--incoming", $"local:{stage.In(name)}.sock");
            Assert.NotEqual(inode, InodeOfRam(next));
            Qmp there = await stage.QmpAsync(name);
            GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In($"vm{move - 1}.qmp"), "--local", stage.In($"{name}.sock"));
            await migrate.SucceedAsync();
            Assert.Contains("128 MiB of RAM handed over, none copied", migrate.All, StringComparison.Ordinal);

            string story = $"move {move}: {await monitor.MigrationAsync()}\n{machine.All}\n{next.All}";
            JsonElement bytes = (await monitor.MigrationAsync()).GetProperty("x-godwit").GetProperty("bytes");
            Assert.True(bytes.GetProperty("ram").GetInt64() == 0, story);
            Assert.True(bytes.GetProperty("ram-by-file").GetInt64() == Ram, story);
            Assert.True(bytes.GetProperty("machine-state").GetInt64() + bytes.GetProperty("overhead").GetInt64() < 64 << 10, story);
            Assert.Equal("postmigrate", await monitor.StateAsync());
            await there.InStateAsync("running");
            Assert.True(InodeOfRam(next) == inode, story);
            await stage.Start("quit", "--monitor", stage.In($"vm{move - 1}.qmp")).SucceedAsync();
            await machine.SucceedAsync();
            await GuestVerifiesAsync(there); // also when whom it came from has gone
            output.WriteLine($"move {move}: {migrate.Output[^1]}");
            (machine, monitor) = (next, there);
            sizes.Add(SizeOf(machine));
        }

        (int Files, double Megabytes) before = sizes[0];
        (int Files, double Megabytes) after = sizes[^1];
        output.WriteLine($"after 1: {before}, after {Moves}: {after}");
        Assert.True(after.Files <= before.Files + 4, $"{before} → {after}");
        // What a collector may put off.
        Assert.True(after.Megabytes < before.Megabytes + 32, $"{before} → {after}");
    }

    public static TheoryData<string, string> Matrix => new()
    {
        { "destination", "paused" }, { "source", "paused" }, { "destination", "switchover" }, { "destination", "after" }, { "source", "after" },
    };

    [Theory]
    [MemberData(nameof(Matrix))]
    public async Task Whoever_is_killed_one_side_at_most_can_run(string victim, string moment)
    {
        await using var stage = new Stage();
        GodwitProcess source = await StartAsync(stage, "src");
        GodwitProcess destination = await StartAsync(stage, "dst", "--incoming", $"local:{stage.In("new.sock")}");
        Qmp src = await stage.QmpAsync("src");
        Qmp dst = await stage.QmpAsync("dst");
        await GuestVerifiesAsync(src);
        if (moment == "paused")
        {
            await src.ExecuteAsync("migrate-set-capabilities", static writer =>
            {
                writer.WriteStartArray("capabilities");
                writer.WriteStartObject();
                writer.WriteString("capability", "pause-before-switchover");
                writer.WriteBoolean("state", true);
                writer.WriteEndObject();
                writer.WriteEndArray();
            });
        }

        await src.MigrateAsync($"local:{stage.In("new.sock")}");
        if (moment == "after")
            await src.MigratedAsync();
        else
            await EventAsync(src.Client, moment == "paused" ? "pre-switchover" : "device");
        await (victim == "source" ? source : destination).KillAsync();
        if (victim == "source" && moment == "after")
        {
            await dst.InStateAsync("running");
            await GuestVerifiesAsync(dst);
            return;
        }

        if (victim == "source")
        {
            // No commit has come: it never runs, and waits for another.
            await Qmp.UntilAsync(
                async () => (await dst.MigrationAsync()).GetProperty("status").GetString() == "setup", "the destination does not wait again");
            Assert.Equal("inmigrate", await dst.StateAsync());
            return;
        }

        JsonElement migration = await src.MigratedAsync();
        if (migration.GetProperty("status").GetString() == "failed" && await src.StateAsync() != "postmigrate")
        {
            await src.InStateAsync("running");
            await GuestVerifiesAsync(src);
            return;
        }

        // Committed: the RAM was the other's, who may have run in it. An operator cannot decide otherwise.
        Assert.True(moment != "paused", $"source:\n{source.All}\ndestination:\n{destination.All}");
        Assert.Equal("postmigrate", await src.StateAsync());
        GodwitProcess cont = stage.Start("cont", "--monitor", stage.In("src.qmp"));
        await cont.FailAsync(1, "handed over");
        Assert.Equal("postmigrate", await src.StateAsync());
    }

    [Fact]
    public async Task A_machine_with_a_device_is_refused_by_its_name()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        await stage.SourceAsync();
        GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In("src.qmp"), "--local", stage.In("new.sock"));
        await migrate.FailAsync(1, "nvme0", "device-not-handed-over");
        Assert.Equal("running", await (await stage.QmpAsync("src")).StateAsync());
        GodwitProcess blockers = stage.Start("blockers", "--local", "--monitor", stage.In("src.qmp"));
        Assert.Equal(1, await blockers.ExitAsync());
        Assert.Contains("device-not-handed-over", blockers.All, StringComparison.Ordinal);
    }

    private static async Task<GodwitProcess> StartAsync(Stage stage, string name, params IReadOnlyList<string> more)
    {
        GodwitProcess machine = stage.Start(["run", "--name", name, "--memory", Stage.Memory, "--guest", Guest, "--monitor", $"{stage.In(name)}.qmp", .. more]);
        await machine.WaitForAsync("monitor at");
        return machine;
    }

    /// <summary>Until the guest has found more pages to be what it wrote, and none that is not.</summary>
    private static async Task GuestVerifiesAsync(Qmp monitor)
    {
        // More than the working set has pages: each has been looked at.
        long before = await VerifiedAsync(monitor);
        await Qmp.UntilAsync(async () => await VerifiedAsync(monitor) > before + 8192 + 128, "the guest verifies no pages");
    }

    private static async Task<long> VerifiedAsync(Qmp monitor)
    {
        JsonElement guest = await monitor.GuestAsync();
        Assert.False(guest.TryGetProperty("panic", out JsonElement panic), $"the guest panicked: {panic}");
        Assert.True(guest.GetProperty("mismatches").GetInt64() == 0, $"{guest}");
        return guest.GetProperty("pages-verified").GetInt64();
    }

    private static async Task EventAsync(QmpClient client, string status)
    {
        QmpEvent happened;
        do
        {
            happened = await client.Events.ReadAsync().AsTask().WaitAsync(GodwitProcess.Guard);
        }
        while (happened.Name != "MIGRATION" || happened.Data.GetProperty("status").GetString() != status);
    }

    /// <summary>Of the file that is mapped as its RAM.</summary>
    private static string InodeOfRam(GodwitProcess process)
    {
        string[] inodes =
        [
            .. File.ReadLines($"/proc/{process.Id}/maps").Where(static line => line.Contains("memfd:godwit-main", StringComparison.Ordinal))
                .Select(static line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[4]).Distinct(),
        ];
        return Assert.Single(inodes);
    }

    private static (int Files, double Megabytes) SizeOf(GodwitProcess process)
    {
        // RssAnon: what is its own, not guest RAM.
        string line = File.ReadLines($"/proc/{process.Id}/status").First(static line => line.StartsWith("RssAnon:", StringComparison.Ordinal));
        int files = Directory.EnumerateFiles($"/proc/{process.Id}/fd").Count();
        return (files, double.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) / 1024);
    }
}
