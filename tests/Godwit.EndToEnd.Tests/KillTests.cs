using System.Text.Json;
using Godwit.Monitor;

namespace Godwit.EndToEnd.Tests;

/// <summary>
/// Processes killed in the middle. Whatever is killed and whenever: never two running machines, and a source that was not committed runs on
/// unless it is its own device that died.
/// </summary>
public sealed class KillTests
{
    public static TheoryData<string, string> Matrix
    {
        get
        {
            var matrix = new TheoryData<string, string>();
            foreach (string victim in new[] { "destination", "device a", "device b" })
            {
                foreach (string moment in new[] { "before", "precopy", "switchover" })
                {
                    matrix.Add(victim, moment);
                }
            }

            return matrix;
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public async Task Whoever_is_killed_there_are_never_two_running_machines(string victim, string moment)
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        GodwitProcess killed = victim switch { "destination" => pair.Destination, "device a" => pair.DeviceA, _ => pair.DeviceB };
        await pair.Src.SetAsync(("downtime-limit", Stage.Patient), ("x-min-precopy", moment == "precopy" ? "60000" : "0"));
        if (moment == "before")
        {
            await killed.KillAsync();
            await TryMigrateAsync(pair, stage);
        }
        else
        {
            await pair.Src.MigrateAsync($"unix:{stage.In("mig.sock")}");
            await HappenedAsync(pair.Src.Client, moment);
            await killed.KillAsync();
        }

        JsonElement migration = await pair.Src.MigratedAsync();
        string source = await pair.Src.StateAsync();
        string destination = await StateOrGoneAsync(pair.Dst);
        string story = $"{migration}\nsource {source}, destination {destination}\n{pair.Everything}";
        Assert.False(source == "running" && destination == "running", story);
        string status = migration.GetProperty("status").GetString()!;
        Assert.True(moment == "switchover" || status is "failed" or "none", story);
        if (status != "completed" && moment != "before")
        {
            Assert.False(string.IsNullOrWhiteSpace(migration.GetProperty("error-desc").GetString()), story);
        }

        if (victim == "device a")
        {
            await AssertDeviceReportedAsync(pair, story);
        }
        else if (status == "failed" && source != "postmigrate")
        {
            Assert.True(source == "running", story);
            await pair.Src.GuestDoesIoAsync();
            Assert.Equal(0, (await pair.Src.GuestAsync()).GetProperty("mismatches").GetInt64());
        }
    }

    [Fact]
    public async Task A_machine_that_loses_its_device_says_so_at_once()
    {
        await using var stage = new Stage();
        GodwitProcess device = await stage.DeviceAsync("a");
        GodwitProcess machine = await stage.SourceAsync();
        Qmp qmp = await stage.QmpAsync("src");
        await qmp.GuestDoesIoAsync();
        await device.KillAsync();
        await machine.WaitForAsync("nvme0: the device has gone");
        QmpEvent notice = default;
        while (notice.Name != "X_GODWIT_NOTICE")
        {
            notice = await qmp.Client.Events.ReadAsync().AsTask().WaitAsync(GodwitProcess.Guard);
        }

        Assert.Contains("nvme0", notice.Data.GetProperty("message").GetString(), StringComparison.Ordinal);
        GodwitProcess blockers = stage.Start("blockers", "--monitor", stage.In("src.qmp"));
        Assert.Equal(1, await blockers.ExitAsync());
        Assert.Contains("device-lost", blockers.All, StringComparison.Ordinal);
        await stage.Start("quit", "--monitor", stage.In("src.qmp")).SucceedAsync();
        await machine.SucceedAsync();
    }

    /// <summary>A lost device is a blocker, so the command may be refused; that is an answer too.</summary>
    private static async Task TryMigrateAsync(Pair pair, Stage stage)
    {
        try
        {
            await pair.Src.MigrateAsync($"unix:{stage.In("mig.sock")}");
        }
        catch (QmpException)
        {
            return;
        }

        await pair.Src.MigratedAsync();
    }

    private static async Task HappenedAsync(QmpClient client, string moment)
    {
        while (true)
        {
            QmpEvent happened = await client.Events.ReadAsync().AsTask().WaitAsync(GodwitProcess.Guard);
            bool now = moment == "precopy"
                ? happened.Name == "MIGRATION_PASS" && happened.Data.GetProperty("pass").GetInt32() >= 3
                : happened.Name == "MIGRATION" && happened.Data.GetProperty("status").GetString() == "device";
            if (now)
            {
                return;
            }
        }
    }

    private static async Task AssertDeviceReportedAsync(Pair pair, string story)
    {
        JsonElement devices = await pair.Src.ExecuteAsync("x-query-devices");
        Assert.True(devices[0].TryGetProperty("lost", out _), $"{devices}\n{story}");
        await pair.Source.WaitForAsync("nvme0: the device has gone");
    }

    private static async Task<string> StateOrGoneAsync(Qmp machine)
    {
        try
        {
            return await machine.StateAsync();
        }
        catch (IOException)
        {
            return "gone";
        }
    }
}
