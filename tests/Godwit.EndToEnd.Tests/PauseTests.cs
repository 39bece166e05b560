using System.Text.Json;
using Godwit.Monitor;

namespace Godwit.EndToEnd.Tests;

/// <summary>Capabilities and the pause before the switchover, as an operator uses them.</summary>
public sealed class PauseTests
{
    [Fact]
    public async Task A_migration_waits_before_its_switchover_until_it_is_continued()
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        QmpException refused = await Assert.ThrowsAsync<QmpException>(() => CapabilityAsync(pair.Src, "postcopy-ram"));
        Assert.Contains("nvme0", refused.Message, StringComparison.Ordinal);
        Assert.Contains("nvme0", (await Assert.ThrowsAsync<QmpException>(() => pair.Src.ExecuteAsync("migrate-start-postcopy"))).Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<QmpException>(() => CapabilityAsync(pair.Src, "no-such-capability"));
        await CapabilityAsync(pair.Src, "pause-before-switchover");
        await pair.Src.SetAsync(("downtime-limit", Stage.Patient));
        await pair.Src.MigrateAsync($"unix:{stage.In("mig.sock")}");
        await Qmp.UntilAsync(async () => await StatusAsync(pair.Src) == "pre-switchover", "it does not pause");
        Assert.Equal("finish-migrate", await pair.Src.StateAsync());
        Assert.Equal("inmigrate", await pair.Dst.StateAsync());
        await stage.Start("migrate-continue", "--monitor", stage.In("src.qmp")).SucceedAsync();
        JsonElement migration = await pair.Src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{pair.Everything}");
        await pair.Dst.InStateAsync("running");
        await pair.Dst.GuestDoesIoAsync();
        Assert.Equal(0, (await pair.Dst.GuestAsync()).GetProperty("mismatches").GetInt64());
    }

    private static async Task<string?> StatusAsync(Qmp machine) => (await machine.MigrationAsync()).GetProperty("status").GetString();

    private static Task<JsonElement> CapabilityAsync(Qmp machine, string name) => machine.ExecuteAsync("migrate-set-capabilities", writer =>
    {
        writer.WriteStartArray("capabilities");
        writer.WriteStartObject();
        writer.WriteString("capability", name);
        writer.WriteBoolean("state", true);
        writer.WriteEndObject();
        writer.WriteEndArray();
    });
}
