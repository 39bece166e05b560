namespace Godwit.EndToEnd.Tests;

/// <summary>One process with the devices of both ends of a migration, and of other machines.</summary>
public sealed class OneDeviceProcessTests
{
    [Fact]
    public async Task Both_ends_of_a_migration_may_live_in_one_process_and_the_image_changes_hands_once()
    {
        await using var stage = new Stage();
        GodwitProcess devices = stage.Start(
            "device", "nvme", "--socket", stage.In("a.sock"), "--socket", stage.In("b.sock"), "--socket", stage.In("c.sock"),
            "--image", stage.In("disk.img"), "--size", "8M", "--serial", "e2e");
        foreach (string name in (string[])["a", "b", "c"])
        {
            await devices.WaitForAsync($"listening on {stage.In($"{name}.sock")}");
        }

        await stage.SourceAsync();
        // The destination's connection is taken while the source has its own, and a third machine's as well.
        await stage.DestinationAsync();
        Qmp src = await stage.QmpAsync("src");
        Qmp dst = await stage.QmpAsync("dst");
        await src.GuestDoesIoAsync();

        GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In("src.qmp"), "--verify", $"unix:{stage.In("mig.sock")}");
        Assert.True(await migrate.ExitAsync() == 0, $"{migrate.All}\n{devices.All}");
        await dst.GuestDoesIoAsync();
        Assert.Equal(0, (await dst.GuestAsync()).GetProperty("mismatches").GetInt64());
        Assert.Equal("postmigrate", await src.StateAsync());
        // Each end has had the image once.
        Assert.Equal(["a.sock", "b.sock"], devices.Output.Where(line => line.Contains("nvme: took", StringComparison.Ordinal)).Select(line => line.Split(':')[0]));

        // A machine that would take the image while the destination has it is kept from it: its guest finds a controller with fatal status.
        GodwitProcess third = stage.Start(stage.Machine("third", "c"));
        await devices.WaitForAsync("c.sock: nvme: controller of");
        Assert.Contains(devices.Output, line => line.Contains("belongs to another server", StringComparison.Ordinal));
        await dst.GuestDoesIoAsync();
        await third.SignalAsync("KILL");

        await stage.Start("quit", "--monitor", stage.In("src.qmp")).SucceedAsync();
        await stage.Start("quit", "--monitor", stage.In("dst.qmp")).SucceedAsync();
        await devices.SignalAsync("TERM");
        await devices.SucceedAsync();
        Assert.False(File.Exists(stage.In("a.sock")) || File.Exists(stage.In("b.sock")) || File.Exists(stage.In("c.sock")));
    }

    /// <summary>The device's process is stopped, so a vCPU that needs it waits for as long as the test likes.</summary>
    [Fact]
    public async Task A_device_that_stands_still_stops_the_guest_and_not_the_monitor()
    {
        await using var stage = new Stage();
        GodwitProcess device = await stage.DeviceAsync("a");
        GodwitProcess machine = stage.Start(
            "run", "--name", "src", "--memory", Stage.Memory, "--iommu", "intel", "--device", $"vfio-user,socket={stage.In("a")}.sock,id=nvme0,reply-timeout=30m",
            "--guest", stage.Guest, "--monitor", stage.In("src.qmp"));
        await machine.WaitForAsync("monitor at");
        Qmp qmp = await stage.QmpAsync("src");
        await qmp.GuestDoesIoAsync();
        await device.SignalAsync("STOP");

        // The guest's next unmap waits for the device: its count of I/Os stands still, while every question is answered.
        long last = -1;
        await Qmp.UntilAsync(
            async () =>
            {
                long before = last;
                last = await qmp.IoAsync();
                await qmp.ExecuteAsync("query-migrate");
                return await qmp.StateAsync() == "running" && last == before;
            },
            "the guest goes on without its device");
        await stage.Start("blockers", "--monitor", stage.In("src.qmp")).ExitAsync();
        Assert.Equal(last, await qmp.IoAsync());

        await device.SignalAsync("CONT");
        await qmp.GuestDoesIoAsync();
        Assert.Equal(0, (await qmp.GuestAsync()).GetProperty("mismatches").GetInt64());
    }

    [Fact]
    public async Task One_socket_that_cannot_be_made_ends_the_process_and_leaves_no_other()
    {
        await using var stage = new Stage();
        GodwitProcess devices = stage.Start("device", "edu", "--socket", stage.In("a.sock"), "--socket", stage.In("missing/b.sock"));
        await devices.FailAsync(1, "b.sock");
        Assert.False(File.Exists(stage.In("a.sock")));
    }
}
