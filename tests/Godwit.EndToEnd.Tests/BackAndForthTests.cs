using System.Globalization;
using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>
/// One running guest moves to and fro between two device servers that stay: no growth of their memory or files, nor of the machines' from one
/// move to the next. Few moves always; as many as <c>GODWIT_MOVES</c> says.
/// </summary>
public sealed class BackAndForthTests(ITestOutputHelper output)
{
    private const int Warm = 4;

    [Fact]
    public async Task A_guest_moves_to_and_fro_and_nothing_grows()
    {
        int moves = int.Parse(Environment.GetEnvironmentVariable("GODWIT_MOVES") ?? "6", CultureInfo.InvariantCulture);
        await using var stage = new Stage();
        GodwitProcess[] devices = [await stage.DeviceAsync("a"), await stage.DeviceAsync("b")];
        GodwitProcess machine = stage.Start(stage.Machine("vm0", "a"));
        await machine.WaitForAsync("monitor at");
        Qmp monitor = await stage.QmpAsync("vm0");
        await monitor.GuestDoesIoAsync();
        long io = 0;
        var sizes = new List<Size>();
        for (int move = 1; move <= moves; move++)
        {
            string name = $"vm{move}";
            string uri = $"unix:{stage.In(name)}.mig";
            GodwitProcess next = stage.Start([.. stage.Machine(name, move % 2 == 0 ? "a" : "b"), "--incoming", uri]);
            await next.WaitForAsync("monitor at");
            Qmp there = await stage.QmpAsync(name);
            await monitor.SetAsync(("downtime-limit", Stage.Patient), ("x-verify-pages", "true"));
            await monitor.MigrateAsync(uri);
            JsonElement migration = await monitor.MigratedAsync();
            Assert.True(migration.GetProperty("status").GetString() == "completed", $"move {move}: {migration}\n{machine.All}\n{next.All}");
            await there.InStateAsync("running");
            await there.GuestDoesIoAsync();
            Assert.Equal(0, (await there.GuestAsync()).GetProperty("mismatches").GetInt64());
            long more = await there.IoAsync();
            Assert.True(more > io, $"move {move}: the guest has begun anew");
            io = more;
            await stage.Start("quit", "--monitor", stage.In($"vm{move - 1}.qmp")).SucceedAsync();
            await machine.SucceedAsync();
            (machine, monitor) = (next, there);
            sizes.Add(new Size(Of(devices[0]), Of(devices[1]), Of(machine)));
            TestContext.Current.SendDiagnosticMessage("move {0}: {1}; {2}", move, sizes[^1], migration.GetProperty("downtime"));
        }

        foreach (int move in new[] { 0, Warm - 1, sizes.Count - 1 })
        {
            output.WriteLine($"after {move + 1} moves: {sizes[move]}");
        }

        // The middle of some on each end: a garbage collector breathes.
        Size before = Size.Middle(sizes.Take(Warm));
        Size after = Size.Middle(sizes.TakeLast(Warm));
        string story = $"{before} → {after}";
        Assert.True(after.DeviceA.Files <= before.DeviceA.Files + 2, story);
        Assert.True(after.DeviceB.Files <= before.DeviceB.Files + 2, story);
        Assert.True(after.Machine.Files <= before.Machine.Files + 4, story);
        // 48 MB: what a collector may put off, and half a megabyte a move where there are a hundred.
        Assert.True(after.DeviceA.Megabytes < before.DeviceA.Megabytes + 48, story);
        Assert.True(after.DeviceB.Megabytes < before.DeviceB.Megabytes + 48, story);
        Assert.True(after.Machine.Megabytes < before.Machine.Megabytes + 48, story);
    }

    private static Process Of(GodwitProcess process)
    {
        // RssAnon: what is its own, not guest RAM.
        string line = File.ReadLines($"/proc/{process.Id}/status").First(static line => line.StartsWith("RssAnon:", StringComparison.Ordinal));
        int files = Directory.EnumerateFiles($"/proc/{process.Id}/fd").Count();
        return new Process(files, double.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) / 1024);
    }

    private readonly record struct Process(int Files, double Megabytes)
    {
        public static Process Middle(IEnumerable<Process> some) => new(
            some.Select(each => each.Files).Order().ElementAt(some.Count() / 2), some.Select(each => each.Megabytes).Order().ElementAt(some.Count() / 2));

        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Files} files, {Megabytes:0} MB");
    }

    private readonly record struct Size(Process DeviceA, Process DeviceB, Process Machine)
    {
        public static Size Middle(IEnumerable<Size> some) => new(
            Process.Middle(some.Select(each => each.DeviceA)), Process.Middle(some.Select(each => each.DeviceB)), Process.Middle(some.Select(each => each.Machine)));

        public override string ToString() => $"device a {DeviceA}; device b {DeviceB}; machine {Machine}";
    }
}
