using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>Devices whose logs take little, as hardware's do: real processes, coverage by use, and nothing lost.</summary>
public sealed class LimitedLogTests
{
    [Fact]
    public async Task A_log_that_does_not_take_the_aperture_follows_what_the_guest_maps_and_no_page_differs()
    {
        await using var stage = new Stage();
        GodwitProcess a = await DeviceAsync(stage, "a");
        GodwitProcess b = await DeviceAsync(stage, "b");
        GodwitProcess source = await stage.SourceAsync();
        GodwitProcess destination = await stage.DestinationAsync();
        Qmp src = await stage.QmpAsync("src");
        Qmp dst = await stage.QmpAsync("dst");
        await src.GuestDoesIoAsync();
        await stage.Start("blockers", "--monitor", stage.In("src.qmp")).SucceedAsync();

        // What the device accepts was found out when it was plugged.
        GodwitProcess before = stage.Start("status", "--dirty", "--monitor", stage.In("src.qmp"));
        await before.SucceedAsync();
        Assert.Contains(before.Output, line => line.Contains("source    the device's log (dirty-tracking=auto)", StringComparison.Ordinal));
        Assert.Contains(before.Output, line => line.Contains("accepts   logs 2 ranges of 4 KiB to 2 MiB together, by pages of 4 KiB", StringComparison.Ordinal));
        Assert.Contains("its log follows what the guest maps", source.All, StringComparison.Ordinal);

        await src.SetAsync(("x-verify-pages", "true"), ("x-min-precopy", "1500"), ("downtime-limit", "1000"));
        await src.MigrateAsync($"unix:{stage.In("mig.sock")}");
        JsonElement device = default;
        await Qmp.UntilAsync(
            async () =>
            {
                JsonElement now = (await src.ExecuteAsync("x-godwit-query-dirty"))[0];
                bool followed = now.GetProperty("active").GetBoolean() && now.GetProperty("syncs").GetInt64() > 0;
                device = followed ? now : device;
                return followed;
            },
            "the log is never seen at work");
        Assert.True(device.GetProperty("coverage").GetProperty("by-use").GetBoolean());
        Assert.InRange(device.GetProperty("coverage").GetProperty("ranges").GetInt64(), 1, 2);
        Assert.InRange(device.GetProperty("coverage").GetProperty("bytes").GetInt64(), 4096, 2 << 20);

        JsonElement migration = await src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{source.All}\n{destination.All}\n{a.All}\n{b.All}");
        JsonElement pages = migration.GetProperty("x-godwit").GetProperty("verification");
        Assert.Equal((32768, 0), (pages.GetProperty("pages-compared").GetInt64(), pages.GetProperty("pages-differing").GetInt64()));
        await dst.GuestDoesIoAsync();
        Assert.Equal(0, (await dst.GuestAsync()).GetProperty("mismatches").GetInt64());
    }

    [Fact]
    public async Task A_log_is_started_anew_when_the_guest_maps_elsewhere_during_the_migration_and_no_page_differs()
    {
        // The guest moves its device between two translated domains, with mappings below 4 GiB, and pass-through, where all of RAM is mapped.
        await using var stage = new Stage { Guest = "nvme-stress,queue-depth=8,dirty-rate=4,working-set=2M,region=8M,churn=100,domain-switches=5,seed=11" };
        GodwitProcess a = await DeviceAsync(stage, "a", "64M");
        GodwitProcess b = await DeviceAsync(stage, "b", "64M");
        GodwitProcess source = await stage.SourceAsync();
        GodwitProcess destination = await stage.DestinationAsync();
        Qmp src = await stage.QmpAsync("src");
        Qmp dst = await stage.QmpAsync("dst");
        await src.GuestDoesIoAsync();

        // Rounds go on until the log has been started anew, however long that takes.
        await src.SetAsync(("x-verify-pages", "true"), ("x-min-precopy", "600000"), ("downtime-limit", "5000"));
        await src.MigrateAsync($"unix:{stage.In("mig.sock")}");
        await Qmp.UntilAsync(async () => (await src.ExecuteAsync("x-godwit-query-dirty"))[0].GetProperty("rearms").GetInt64() > 0, "the log is never started anew");
        GodwitProcess status = stage.Start("status", "--dirty", "--monitor", stage.In("src.qmp"));
        await status.SucceedAsync();
        Assert.Matches(@"re-arms   [1-9]", status.Output.Single(line => line.Contains("re-arms ", StringComparison.Ordinal)));

        await src.SetAsync(("x-min-precopy", "0"));
        JsonElement migration = await src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{source.All}\n{destination.All}\n{a.All}\n{b.All}");
        JsonElement pages = migration.GetProperty("x-godwit").GetProperty("verification");
        Assert.Equal((32768, 0), (pages.GetProperty("pages-compared").GetInt64(), pages.GetProperty("pages-differing").GetInt64()));
        await dst.GuestDoesIoAsync();
        JsonElement guest = await dst.GuestAsync();
        Assert.Equal(0, guest.GetProperty("mismatches").GetInt64());
    }

    [Fact]
    public async Task Limits_that_cannot_be_are_refused()
    {
        await using var stage = new Stage();
        await stage.Start("device", "edu", "--socket", stage.In("e.sock"), "--log-span-min", "8M", "--log-span-max", "4M")
            .FailAsync(1, "--log-span-min 8M is more than --log-span-max 4M");
        await stage.Start("device", "edu", "--socket", stage.In("e.sock"), "--log-page", "12K").FailAsync(1, "--log-page 12K is no power of two");
    }

    [Fact]
    public async Task A_guest_that_dirties_faster_than_the_link_is_found_out_in_a_few_rounds()
    {
        await using var stage = new Stage { Guest = "nvme-stress,queue-depth=4,dirty-rate=64,working-set=8M,region=8M,churn=100,seed=7" };
        Pair pair = await stage.PairAsync();
        GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In("src.qmp"), "--bandwidth", "6M", $"unix:{stage.In("mig.sock")}");
        await migrate.WaitForAsync("NO PROGRESS for 3 rounds");
        await migrate.FailAsync(1, "rounds in a row that left as much as they found");
        JsonElement migration = await pair.Src.MigrationAsync();
        Assert.InRange(migration.GetProperty("ram").GetProperty("dirty-sync-count").GetInt64(), 5, 20);
        Assert.Equal("running", await pair.Src.StateAsync());
        await pair.Src.GuestDoesIoAsync();
    }

    private static async Task<GodwitProcess> DeviceAsync(Stage stage, string name, string span = "2M")
    {
        GodwitProcess device = stage.Start(
            "device", "nvme", "--socket", stage.In($"{name}.sock"), "--image", stage.In("disk.img"), "--size", "8M", "--serial", "e2e",
            "--log-ranges", "2", "--log-span-max", span);
        await device.WaitForAsync("listening on");
        return device;
    }
}
