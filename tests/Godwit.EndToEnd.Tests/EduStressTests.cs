using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>The guest <c>edu-stress</c> on educational devices served over vfio-user: what it verifies in the lab on the kernel's VFIO, without a lab.</summary>
public sealed class EduStressTests
{
    [Theory]
    [InlineData("intel", "")]
    [InlineData("intel", "--log-span-max 1M --log-ranges 2")]
    [InlineData("none", "")]
    [InlineData("intel", "", true)]
    public async Task It_moves_in_the_middle_of_its_transfers_and_no_page_differs(string iommu, string limits, bool pin = false)
    {
        await using var stage = new Stage { Guest = $"edu-stress,seed={Environment.TickCount & 0xffff},pin={(pin ? 1 : 0)}" };
        GodwitProcess a = await DeviceAsync(stage, "a", limits), b = await DeviceAsync(stage, "b", limits);
        GodwitProcess source = await stage.SourceAsync("--iommu", iommu);
        GodwitProcess destination = await stage.DestinationAsync("--iommu", iommu);
        Qmp src = await stage.QmpAsync("src"), dst = await stage.QmpAsync("dst");
        string everything() => $"{source.All}\n{destination.All}\n{a.All}\n{b.All}";
        await src.GuestDoesIoAsync();
        await src.SetAsync(("downtime-limit", Stage.Patient), ("x-verify-pages", "true"), ("x-min-precopy", "1000"));
        await src.MigrateAsync($"unix:{stage.In("mig.sock")}");
        JsonElement migration = await src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{everything()}");
        JsonElement pages = migration.GetProperty("x-godwit").GetProperty("verification");
        Assert.Equal((32768, 0), (pages.GetProperty("pages-compared").GetInt64(), pages.GetProperty("pages-differing").GetInt64()));

        // Every page at rest is read once more over there.
        await dst.GuestDoesIoAsync();
        long arrived = (await dst.GuestAsync()).GetProperty("pages-verified").GetInt64();
        await Qmp.UntilAsync(async () => (await dst.GuestAsync()).GetProperty("pages-verified").GetInt64() > arrived + 1024, "the guest verifies no pages");
        JsonElement guest = await dst.GuestAsync();
        Assert.True(guest.GetProperty("mismatches").GetInt64() == 0, $"{guest}\n{everything()}");
        Assert.Equal(iommu == "none", guest.GetProperty("unmaps").GetInt64() == 0);
        const string Follows = "its log follows what the guest maps";
        if (limits.Length > 0)
            await source.WaitForAsync(Follows);
        else
            Assert.DoesNotContain(Follows, source.All, StringComparison.Ordinal);
    }

    [Fact]
    public async Task It_unmaps_pages_under_transfers_and_ends_when_the_power_button_is_pressed()
    {
        await using var stage = new Stage { Guest = "edu-stress,unmap-percent=100" };
        GodwitProcess device = await DeviceAsync(stage, "a", string.Empty);
        GodwitProcess machine = await stage.SourceAsync("--iommu", "intel");
        Qmp qmp = await stage.QmpAsync("src");
        await qmp.GuestDoesIoAsync();
        JsonElement guest = await qmp.GuestAsync();
        Assert.True(guest.GetProperty("mismatches").GetInt64() == 0, $"{guest}\n{device.All}");
        Assert.Equal(0, guest.GetProperty("reads").GetInt64()); // each page was unmapped before it could be counted
        await stage.Start("powerdown", "--monitor", stage.In("src.qmp")).SucceedAsync();
        await machine.SucceedAsync();
        Assert.Contains(machine.Output, line => line.EndsWith("switched off by the guest", StringComparison.Ordinal));
    }

    [Fact]
    public async Task It_says_what_is_missing()
    {
        await using var stage = new Stage { Guest = "edu-stress" };
        await stage.DeviceAsync("a");
        GodwitProcess machine = await stage.SourceAsync();
        Qmp qmp = await stage.QmpAsync("src");
        await Qmp.UntilAsync(async () => (await qmp.GuestAsync()).TryGetProperty("panic", out _), "the guest does not give up");
        Assert.Equal("there is no educational device on bus 0", (await qmp.GuestAsync()).GetProperty("panic").GetString());
        await machine.SignalAsync("TERM");
        await stage.Start("run", "--memory", "64M", "--guest", "edu-stress,pages=8192", "--monitor", stage.In("x.qmp")).FailAsync(1, "edu-stress needs 33 MiB below 4 GiB");
    }

    private static async Task<GodwitProcess> DeviceAsync(Stage stage, string name, string limits)
    {
        GodwitProcess device = stage.Start(["device", "edu", "--socket", stage.In($"{name}.sock"), .. limits.Split(' ', StringSplitOptions.RemoveEmptyEntries)]);
        await device.WaitForAsync("listening on");
        return device;
    }
}
