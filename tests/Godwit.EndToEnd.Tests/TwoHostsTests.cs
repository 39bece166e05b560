using System.Diagnostics;
using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>Two hosts: network namespaces with a wire of 1 Gbit/s between them, slow and lossy where the kernel can make it so.</summary>
public sealed class TwoHostsTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData("1")]
    [InlineData("3")]
    public async Task A_machine_moves_over_a_wire(string channels)
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "network namespaces need root");
        await using Wire? wire = await Wire.CreateAsync(output.WriteLine);
        Assert.SkipWhen(wire is null, "network namespaces or iproute2 are missing here");
        await using var stage = new Stage();
        await stage.DeviceAsync("a");
        await stage.DeviceAsync("b");
        GodwitProcess source = stage.Own(GodwitProcess.Start(stage.Machine("src", "a"), stage.Folder, wire.In("a")));
        GodwitProcess destination = stage.Own(GodwitProcess.Start(
            [.. stage.Machine("dst", "b"), "--incoming", $"tcp:{Wire.AddressOfB}:4444"], stage.Folder, wire.In("b")));
        await source.WaitForAsync("monitor at");
        await destination.WaitForAsync("monitor at");
        Qmp src = await stage.QmpAsync("src");
        Qmp dst = await stage.QmpAsync("dst");
        await src.GuestDoesIoAsync();
        await src.SetAsync(("downtime-limit", Stage.Patient), ("multifd-channels", channels), ("x-verify-pages", "true"));
        await src.MigrateAsync($"tcp:{Wire.AddressOfB}:4444");
        JsonElement migration = await src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{source.All}\n{destination.All}");
        await dst.InStateAsync("running");
        await dst.GuestDoesIoAsync();
        Assert.Equal(0, (await dst.GuestAsync()).GetProperty("mismatches").GetInt64());
        output.WriteLine($"{migration.GetProperty("total-time")} ms, downtime {migration.GetProperty("downtime")} ms");
    }

    /// <summary>Two namespaces, joined.</summary>
    private sealed class Wire : IAsyncDisposable
    {
        public const string AddressOfB = "10.251.7.2";
        private const string AddressOfA = "10.251.7.1";

        // 20 ms there and back, and one packet in a hundred lost each way.
        private const string Lossy = "netem delay 10ms loss 1% rate 1gbit";
        private const string Plain = "tbf rate 1gbit burst 128kb latency 50ms";

        private readonly string _name = $"gw{Environment.ProcessId}";

        public IReadOnlyList<string> In(string side) => ["ip", "netns", "exec", _name + side];

        public static async Task<Wire?> CreateAsync(Action<string> say)
        {
            var wire = new Wire();
            string n = wire._name;
            if (!await RunAsync($"ip netns add {n}a && ip netns add {n}b && ip link add {n}v netns {n}a type veth peer name {n}w netns {n}b"
                + $" && ip -n {n}a addr add {AddressOfA}/24 dev {n}v && ip -n {n}b addr add {AddressOfB}/24 dev {n}w"
                + $" && ip -n {n}a link set {n}v up && ip -n {n}b link set {n}w up"))
            {
                await wire.DisposeAsync();
                return null;
            }

            bool lossy = await RunAsync($"tc -n {n}a qdisc add dev {n}v root {Lossy} && tc -n {n}b qdisc add dev {n}w root {Lossy}");
            if (!lossy)
            {
                Assert.True(await RunAsync($"tc -n {n}a qdisc replace dev {n}v root {Plain} && tc -n {n}b qdisc replace dev {n}w root {Plain}"));
            }

            say(lossy ? "1 Gbit/s, 20 ms, 1 % loss" : "1 Gbit/s; this kernel has no netem, so neither delay nor loss");
            return wire;
        }

        public async ValueTask DisposeAsync()
        {
            await RunAsync($"ip netns del {_name}a");
            await RunAsync($"ip netns del {_name}b");
        }

        private static async Task<bool> RunAsync(string script)
        {
            using Process shell = Process.Start(new ProcessStartInfo("/bin/sh", ["-c", script]) { UseShellExecute = false, RedirectStandardError = true, RedirectStandardOutput = true })!;
            await shell.WaitForExitAsync();
            return shell.ExitCode == 0;
        }
    }
}
