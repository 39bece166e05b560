using System.Buffers.Binary;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json;
using Godwit.VfioUser;

namespace Godwit.EndToEnd.Tests;

/// <summary>What users get wrong: one line that says what, where and the limit, an exit code, and nothing left behind.</summary>
public sealed class BadInputTests
{
    [Theory]
    [InlineData("demo --bogus", "--bogus")]
    [InlineData("run --monitor {0}/m --memory 65M", "--memory '65M' must be a multiple of 2M")]
    [InlineData("run --monitor {0}/m --device vfio-user,socket=a,speed=9", "'speed'")]
    [InlineData("run --monitor {0}/m --guest nosuch", "'nosuch'")]
    [InlineData("device nvme --socket {0}/s", "--image")]
    public async Task A_wrong_command_line_is_refused_before_anything_is_done(string line, string named)
    {
        await using var stage = new Stage();
        await stage.Start(string.Format(line, stage.Folder).Split(' ')).FailAsync(2, named, "--help");
        AssertEmpty(stage);
    }

    [Theory]
    [InlineData("run --monitor {0}/m --device vfio-user,socket={0}/missing", "{0}/missing")]
    [InlineData("run --monitor {0}/m --device vfio-user,socket={0}/file", "{0}/file")]
    [InlineData("run --monitor {0}/file", "{0}/file", "not a socket")]
    [InlineData("run --monitor {0}/no/m", "{0}/no/m")]
    [InlineData("run --monitor {0}/m --guest nvme-stress,queue-depth=0", "queue-depth", "1")]
    [InlineData("run --monitor {0}/m --incoming carrier-pigeon:1", "carrier-pigeon:1")]
    [InlineData("run --monitor {0}/m --incoming unix:{0}/file", "{0}/file")]
    [InlineData("device nvme --socket {0}/file --image {0}/img --size 8M", "{0}/file")]
    [InlineData("device nvme --socket {0}/s --image {0}/missing", "{0}/missing")]
    [InlineData("device nvme --socket {0}/s --image {0}", "{0}")]
    [InlineData("device nvme --socket {0}/s --image {0}/file --size 8M", "{0}/file")]
    [InlineData("device nvme --socket {0}/s --image {0}/img --size 5000", "5000")]
    [InlineData("device nvme --socket {0}/s --image {0}/img --size 8M --serial 123456789012345678901", "20")]
    [InlineData("status --monitor {0}/missing", "{0}/missing", "nothing is there")]
    [InlineData("migrate --monitor {0}/file unix:x", "{0}/file")]
    public async Task A_path_or_value_that_cannot_be_is_named(string line, params string[] named)
    {
        await using var stage = new Stage();
        await File.WriteAllTextAsync(stage.In("file"), "precious");
        await stage.Start(string.Format(line, stage.Folder).Split(' ')).FailAsync(1, [.. named.Select(each => string.Format(each, stage.Folder))]);
        Assert.Equal("precious", await File.ReadAllTextAsync(stage.In("file")));
        Assert.DoesNotContain(Directory.EnumerateFiles(stage.Folder), path => path.EndsWith("/m", StringComparison.Ordinal) || path.EndsWith("/s", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_server_of_another_protocol_version_is_refused()
    {
        await using var stage = new Stage();
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(stage.In("a.sock")));
        listener.Listen();
        GodwitProcess machine = stage.Start(stage.Machine("src", "a"));
        using Socket client = await listener.AcceptAsync().WaitAsync(GodwitProcess.Guard);
        byte[] request = new byte[16];
        await client.ReceiveAsync(request);

        // Header: id, command VERSION, size, flags reply, error; then major 9, minor 0 and capabilities as JSON (vfio-user, header and VERSION).
        byte[] reply = [.. new byte[20], .. "{}\0"u8];
        request.AsSpan(0, 4).CopyTo(reply);
        BinaryPrimitives.WriteUInt32LittleEndian(reply.AsSpan(4), (uint)reply.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(reply.AsSpan(8), 1);
        BinaryPrimitives.WriteUInt16LittleEndian(reply.AsSpan(16), 9);
        await client.SendAsync(reply);
        await machine.FailAsync(1, stage.In("a.sock"), "9.0");
    }

    [Theory]
    [InlineData(MigrationSupport.None, true, "device-without-migration")]
    [InlineData(MigrationSupport.StopCopy, false, "no-dirty-source")]
    public async Task A_device_that_cannot_migrate_blocks_by_type_and_the_machine_runs(MigrationSupport migration, bool logging, string code)
    {
        await using var stage = new Stage();
        BareDevice device = stage.Own(new BareDevice(stage.In("a.sock"), migration, logging));
        await device.Listening.WaitAsync(GodwitProcess.Guard);
        await AssertBlockedAsync(stage, code, "enable-migration=on");
    }

    [Fact]
    public async Task A_served_device_cannot_be_forced()
    {
        await using var stage = new Stage();
        BareDevice device = stage.Own(new BareDevice(stage.In("a.sock"), MigrationSupport.None, logging: true));
        await device.Listening.WaitAsync(GodwitProcess.Guard);
        await AssertBlockedAsync(stage, "device-cannot-be-forced", "enable-migration=force");
    }

    [Fact]
    public async Task A_device_with_migration_switched_off_blocks()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        await AssertBlockedAsync(stage, "device-migration-disabled", "enable-migration=off");
    }

    [Fact]
    public async Task A_destination_that_differs_is_refused_with_every_difference_before_the_source_pauses()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        BareDevice other = stage.Own(new BareDevice(stage.In("b.sock"), MigrationSupport.StopCopy, logging: true));
        await other.Listening.WaitAsync(GodwitProcess.Guard);
        await stage.DeviceAsync("c");
        await stage.SourceAsync();
        Qmp src = await stage.QmpAsync("src");
        await src.GuestDoesIoAsync();

        string[] different =
        [
            "run", "--name", "dst", "--memory", "256M", "--aw-bits", "48", "--device", $"vfio-user,socket={stage.In("b.sock")},id=nvme0",
            "--device", $"vfio-user,socket={stage.In("c.sock")},id=nvme1", "--guest", "idle", "--monitor", stage.In("dst.qmp"),
            "--incoming", $"unix:{stage.In("mig.sock")}",
        ];
        GodwitProcess destination = stage.Start(different);
        await destination.WaitForAsync("monitor at");
        GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In("src.qmp"), $"unix:{stage.In("mig.sock")}");
        await migrate.FailAsync(
            1,
            "ram.main.size: source 134217728, destination 268435456",
            "iommu.aw-bits: source 39, destination 48",
            "guest.name: source nvme-stress, destination idle",
            "vfio.nvme0.id: source 1b36:0010, destination 1234:0001",
            "vfio.nvme1.id: source has none, destination 1b36:0010",
            "pci.");
        Assert.Equal("running", await src.StateAsync());
        await src.GuestDoesIoAsync();

        // It has taken nothing in, so it waits on.
        Qmp dst = await stage.QmpAsync("dst");
        Assert.Equal("inmigrate", await dst.StateAsync());
        await destination.SignalAsync("TERM");
        await destination.SucceedAsync();

        GodwitProcess without = stage.Start(
            "run", "--name", "dst", "--memory", Stage.Memory, "--iommu", "none", "--device", $"vfio-user,socket={stage.In("c.sock")},id=nvme0",
            "--guest", stage.Guest, "--monitor", stage.In("dst.qmp"), "--incoming", $"unix:{stage.In("mig.sock")}");
        await without.WaitForAsync("monitor at");
        GodwitProcess again = stage.Start("migrate", "--monitor", stage.In("src.qmp"), $"unix:{stage.In("mig.sock")}");
        await again.FailAsync(1, "iommu: source intel, destination none");
        await src.GuestDoesIoAsync();
    }

    [Fact]
    public async Task A_migration_to_nobody_names_the_address_and_the_source_runs_on()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        await stage.SourceAsync();
        GodwitProcess migrate = stage.Start("migrate", "--monitor", stage.In("src.qmp"), $"unix:{stage.In("nobody")}");
        await migrate.FailAsync(1, stage.In("nobody"));
        Qmp src = await stage.QmpAsync("src");
        await src.GuestDoesIoAsync();
    }

    [Fact]
    public async Task A_second_machine_on_a_busy_device_is_refused_and_the_first_goes_on()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        await stage.SourceAsync();
        Qmp src = await stage.QmpAsync("src");
        await src.GuestDoesIoAsync();
        await stage.Start(stage.Machine("second", "a")).FailAsync(1, stage.In("a.sock"));
        await src.GuestDoesIoAsync();
        Assert.False(File.Exists(stage.In("second.qmp")));
    }

    [Fact]
    public async Task A_second_server_on_a_socket_or_a_monitor_in_use_is_refused()
    {
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        await stage.Start("device", "nvme", "--socket", stage.In("a.sock"), "--image", stage.In("disk.img")).FailAsync(1, stage.In("a.sock"));
        await stage.SourceAsync();
        await stage.DeviceAsync("b");
        await stage.Start([.. stage.Machine("src", "b")]).FailAsync(1, stage.In("src.qmp"), "another process");
        Qmp src = await stage.QmpAsync("src");
        await src.GuestDoesIoAsync();
    }

    [Fact]
    public async Task A_full_disk_under_the_image_is_an_error_that_the_device_names()
    {
        await using var stage = new Stage();
        string full = stage.In("full");
        Directory.CreateDirectory(full);

        // A disk of its own that is too small, in a mount namespace that needs no root.
        string[] wrapper =
        [
            "unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
            $"mount -t tmpfs -o size=1M none {full} && exec \"$@\"", "sh",
        ];
        using (Process probe = Process.Start("unshare", ["--user", "--map-root-user", "--mount", "true"]))
        {
            await probe.WaitForExitAsync();
            Assert.SkipUnless(probe.ExitCode == 0, "user namespaces are not allowed here");
        }

        GodwitProcess device = stage.Own(GodwitProcess.Start(
            ["device", "nvme", "--socket", stage.In("a.sock"), "--image", Path.Combine(full, "disk.img"), "--size", "8M"], stage.Folder, wrapper));
        await device.WaitForAsync("listening on");
        await stage.SourceAsync();
        await device.WaitForAsync("No space left on device");
        Qmp src = await stage.QmpAsync("src");
        await Qmp.UntilAsync(
            async () =>
            {
                JsonElement guest = await src.GuestAsync();
                return guest.TryGetProperty("panic", out _) || guest.GetProperty("mismatches").GetInt64() > 0;
            },
            "the guest does not notice");
        Assert.False(device.HasExited);
        await stage.Start("quit", "--monitor", stage.In("src.qmp")).SucceedAsync();
    }

    private static async Task AssertBlockedAsync(Stage stage, string code, string setting)
    {
        GodwitProcess machine = stage.Start(
            "run", "--name", "src", "--memory", Stage.Memory, "--device", $"vfio-user,socket={stage.In("a.sock")},id=dev0,{setting}",
            "--monitor", stage.In("src.qmp"));
        await machine.WaitForAsync("monitor at");
        GodwitProcess blockers = stage.Start("blockers", "--monitor", stage.In("src.qmp"));
        Assert.Equal(1, await blockers.ExitAsync());
        Assert.Contains(blockers.Output, line => line.StartsWith("dev0: ", StringComparison.Ordinal) && line.Contains($"[{code}]", StringComparison.Ordinal));

        GodwitProcess json = stage.Start("blockers", "--json", "--monitor", stage.In("src.qmp"));
        Assert.Equal(1, await json.ExitAsync());
        JsonElement first = JsonDocument.Parse(string.Concat(json.Output)).RootElement[0];
        Assert.Equal(code, first.GetProperty("code").GetString());
        Assert.Equal("dev0", first.GetProperty("subject").GetString());

        await stage.Start("migrate", "--monitor", stage.In("src.qmp"), $"unix:{stage.In("mig.sock")}").FailAsync(1, code, "dev0");
        Qmp src = await stage.QmpAsync("src");
        Assert.Equal("running", await src.StateAsync());
        await machine.SignalAsync("TERM");
        await machine.SucceedAsync();
    }

    private static void AssertEmpty(Stage stage) =>
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries(stage.Folder), path => !Path.GetFileName(path).StartsWith('.'));
}
