using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>The commands of the README, each a process of its own.</summary>
public sealed class ByHandTests
{
    [Fact]
    public async Task A_machine_is_migrated_with_the_commands_of_the_readme()
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        await stage.Start("blockers", "--monitor", stage.In("src.qmp")).SucceedAsync();

        GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In("src.qmp"), "--verify", "--report", stage.In("report.html"), $"unix:{stage.In("mig.sock")}");
        Assert.True(await migrate.ExitAsync() == 0, $"{migrate.All}\n{pair.Everything}");
        Assert.Contains(migrate.Output, line => line.Contains("32768 pages compared, 0 differ", StringComparison.Ordinal));
        Assert.Contains("<td>1</td>", await File.ReadAllTextAsync(stage.In("report.html")), StringComparison.Ordinal); // its rounds

        GodwitProcess status = stage.Start("status", "--monitor", stage.In("src.qmp"));
        await status.SucceedAsync();
        Assert.Contains("machine    src: postmigrate", status.Output);
        Assert.Equal("running", await pair.Dst.StateAsync());
        await pair.Dst.GuestDoesIoAsync();

        await stage.Start("stop", "--monitor", stage.In("dst.qmp")).SucceedAsync();
        GodwitProcess json = stage.Start("status", "--json", "--monitor", stage.In("dst.qmp"));
        await json.SucceedAsync();
        JsonElement machine = JsonDocument.Parse(string.Concat(json.Output)).RootElement;
        Assert.Equal("paused", machine.GetProperty("machine").GetProperty("status").GetString());
        Assert.Equal(0, machine.GetProperty("guest").GetProperty("mismatches").GetInt64());
        Assert.Equal("nvme0", machine.GetProperty("devices")[0].GetProperty("id").GetString());

        await stage.Start("cont", "--monitor", stage.In("dst.qmp")).SucceedAsync();
        await pair.Dst.GuestDoesIoAsync();
        await stage.Start("quit", "--monitor", stage.In("src.qmp")).SucceedAsync();
        await stage.Start("quit", "--monitor", stage.In("dst.qmp")).SucceedAsync();
        await pair.Source.SucceedAsync();
        await pair.Destination.SucceedAsync();
        await pair.DeviceA.SignalAsync("TERM");
        await pair.DeviceB.SignalAsync("INT");
        await pair.DeviceA.SucceedAsync();
        await pair.DeviceB.SucceedAsync();
        Assert.Equal(["disk.img", "report.html"], Directory.EnumerateFileSystemEntries(stage.Folder).Select(Path.GetFileName).Where(name => !name!.StartsWith('.')).Order());
    }

    [Fact]
    public async Task The_power_button_ends_the_guest_s_work_and_then_the_machine()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        GodwitProcess machine = await stage.SourceAsync();
        Qmp qmp = await stage.QmpAsync("src");
        await qmp.GuestDoesIoAsync();
        await stage.Start("powerdown", "--monitor", stage.In("src.qmp")).SucceedAsync();
        await machine.SucceedAsync();
        Assert.Contains(machine.Output, line => line.EndsWith("switched off by the guest", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_paused_guest_stands_still_and_goes_on_where_it_was()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        GodwitProcess machine = await stage.SourceAsync();
        Qmp qmp = await stage.QmpAsync("src");
        await qmp.GuestDoesIoAsync();
        await qmp.ExecuteAsync("stop");
        Assert.Equal("paused", await qmp.StateAsync());
        JsonElement before = await qmp.GuestAsync();
        for (int i = 0; i < 10; i++)
        {
            Assert.Equal(before.GetRawText(), (await qmp.GuestAsync()).GetRawText());
        }

        await qmp.ExecuteAsync("cont");
        await qmp.GuestDoesIoAsync();
        Assert.Equal(0, (await qmp.GuestAsync()).GetProperty("mismatches").GetInt64());
        await machine.SignalAsync("TERM");
        await machine.SucceedAsync();
    }

    [Fact]
    public async Task A_paused_machine_arrives_paused()
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        await pair.Src.ExecuteAsync("stop");
        await pair.Src.SetAsync(("x-verify-pages", "true"));
        await pair.Src.MigrateAsync($"unix:{stage.In("mig.sock")}");
        JsonElement migration = await pair.Src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{pair.Everything}");
        await pair.Dst.InStateAsync("paused");
        await pair.Dst.ExecuteAsync("cont");
        await pair.Dst.GuestDoesIoAsync();
        Assert.Equal(0, (await pair.Dst.GuestAsync()).GetProperty("mismatches").GetInt64());
    }

    [Fact]
    public async Task Ctrl_C_cancels_a_migration_and_the_next_one_succeeds()
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In("src.qmp"), "--min-precopy", "1m", $"unix:{stage.In("mig.sock")}");
        await migrate.WaitForAsync("round 2");
        await migrate.SignalAsync("INT");
        await migrate.FailAsync(1, "cancelled");
        Assert.Equal("running", await pair.Src.StateAsync());
        await pair.Src.GuestDoesIoAsync();

        // It had got state into its device, so it cannot take another one.
        await pair.Destination.FailAsync(1, "dst", "cancelled");
        await stage.DestinationAsync();
        Qmp dst = await stage.QmpAsync("dst");
        GodwitProcess again = stage.Start("migrate", "--monitor", stage.In("src.qmp"), "--verify", $"unix:{stage.In("mig.sock")}");
        Assert.True(await again.ExitAsync() == 0, $"{again.All}\n{pair.Everything}");
        await dst.GuestDoesIoAsync();
        Assert.Equal(0, (await dst.GuestAsync()).GetProperty("mismatches").GetInt64());
    }

    [Fact]
    public async Task A_deferred_destination_waits_for_migrate_incoming()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        await stage.DeviceAsync("b");
        await stage.SourceAsync();
        GodwitProcess destination = stage.Start([.. stage.Machine("dst", "b"), "--incoming", "defer"]);
        await destination.WaitForAsync("monitor at");
        Qmp src = await stage.QmpAsync("src");
        Qmp dst = await stage.QmpAsync("dst");
        Assert.Equal("prelaunch", await dst.StateAsync());
        await dst.ExecuteAsync("migrate-incoming", writer => writer.WriteString("uri", "tcp:127.0.0.1:0"));
        string at = (await dst.MigrationAsync()).GetProperty("x-godwit").GetProperty("listening-at").GetString()!;
        await src.GuestDoesIoAsync();
        await src.MigrateAsync(at);
        Assert.Equal("completed", (await src.MigratedAsync()).GetProperty("status").GetString());
        await dst.InStateAsync("running");
        await dst.GuestDoesIoAsync();
    }

    [Fact]
    public async Task A_process_with_its_parent_gone_ends_and_leaves_no_socket()
    {
        await using var stage = new Stage();
        GodwitProcess device = stage.Start("device", "nvme", "--socket", stage.In("a.sock"), "--image", stage.In("disk.img"), "--size", "8M", "--exit-with-parent");
        await device.WaitForAsync("listening on");
        await device.SignalAsync("INT");
        GodwitProcess machine = stage.Start([.. stage.Machine("src", "a"), "--exit-with-parent"]);
        await machine.WaitForAsync("monitor at");
        machine.CloseInput();
        await machine.SucceedAsync();
        device.CloseInput();
        await device.SucceedAsync();
        Assert.False(File.Exists(stage.In("a.sock")));
        Assert.False(File.Exists(stage.In("src.qmp")));
    }
}
