using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>docs/save-and-restore.md, with a device that writes all the time.</summary>
public sealed class SaveAndRestoreTests
{
    [Fact]
    public async Task A_machine_is_saved_to_a_file_and_goes_on_from_it()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        GodwitProcess source = await stage.SourceAsync();
        Qmp src = await stage.QmpAsync("src");
        await src.GuestDoesIoAsync();
        await src.SetAsync(("downtime-limit", Stage.Patient), ("x-verify-pages", "true"));
        await src.MigrateAsync($"file:{stage.In("machine.save")}");
        JsonElement saved = await src.MigratedAsync();
        Assert.True(saved.GetProperty("status").GetString() == "completed", $"{saved}\n{source.All}");
        Assert.Equal("postmigrate", await src.StateAsync());
        long before = await src.IoAsync();
        await stage.Start("quit", "--monitor", stage.In("src.qmp")).SucceedAsync();
        await source.SucceedAsync();

        await stage.DeviceAsync("b");
        GodwitProcess restored = stage.Start([.. stage.Machine("dst", "b"), "--incoming", $"file:{stage.In("machine.save")}"]);
        await restored.WaitForAsync("monitor at");
        Qmp dst = await stage.QmpAsync("dst");
        await dst.InStateAsync("running");
        await dst.GuestDoesIoAsync();
        JsonElement guest = await dst.GuestAsync();
        Assert.Equal(0, guest.GetProperty("mismatches").GetInt64());
        Assert.True(await dst.IoAsync() > before, "the guest has begun anew");
        JsonElement verification = (await dst.MigrationAsync()).GetProperty("x-godwit").GetProperty("verification");
        Assert.Equal(0, verification.GetProperty("pages-differing").GetInt64());
    }

    [Fact]
    public async Task A_file_that_is_no_saved_machine_ends_the_process_with_the_reason()
    {
        await using var stage = new Stage();
        await File.WriteAllTextAsync(stage.In("machine.save"), new string('x', 8192));
        await stage.DeviceAsync("b");
        GodwitProcess restored = stage.Start([.. stage.Machine("dst", "b"), "--incoming", $"file:{stage.In("machine.save")}"]);
        Assert.Equal(1, await restored.ExitAsync());
        Assert.Contains("is no saved machine that can be used", restored.All, StringComparison.Ordinal);
    }
}
