using System.Diagnostics;
using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>A file system without room, under what is saved and under what the devices keep.</summary>
public sealed class FullDiskTests
{
    private const string Folder = "small";

    [Fact]
    public async Task A_save_that_finds_no_room_leaves_the_machine_running_and_no_file_and_the_next_migration_completes()
    {
        await using var stage = new Stage();
        await using var disk = await SmallDisk.MountAsync(stage.In(Folder), "1m");
        Pair pair = await stage.PairAsync();
        await pair.Src.SetAsync(("downtime-limit", Stage.Patient), ("x-verify-pages", "true"));
        await pair.Src.MigrateAsync($"file:{disk.Path}/machine.save");
        JsonElement save = await pair.Src.MigratedAsync();
        Assert.True(save.GetProperty("status").GetString() == "failed", $"{save}\n{pair.Everything}");
        Assert.Contains("ENOSPC", save.GetProperty("error-desc").GetString(), StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(disk.Path));
        Assert.Equal("running", await pair.Src.StateAsync());
        await pair.Src.GuestDoesIoAsync();
        await MoveAsync(stage, pair);
        Assert.Equal(0, (await pair.Dst.GuestAsync()).GetProperty("mismatches").GetInt64());
    }

    [Fact]
    public async Task Devices_whose_image_has_no_room_fail_writes_and_lose_none_that_they_took()
    {
        await using var stage = new Stage { Image = $"{Folder}/disk.img" };
        await using var disk = await SmallDisk.MountAsync(stage.In(Folder), "2m");
        Pair pair = await stage.PairAsync();
        await Qmp.UntilAsync(async () => await MismatchesAsync(pair.Src) > 0, "no write finds the disk full");
        await MoveAsync(stage, pair);
        await pair.Dst.GuestDoesIoAsync();
        foreach (JsonElement detail in (await pair.Dst.GuestAsync()).GetProperty("mismatch-details").EnumerateArray())
        {
            Assert.Contains("failed with status 0x2081", detail.GetString(), StringComparison.Ordinal); // Capacity Exceeded, More (NVM Express Base 1.4, 4.6.1)
        }

        // The guest keeps the first of them only; with room there are no more, of whatever kind.
        await disk.ResizeAsync("16m");
        await pair.Dst.GuestDoesIoAsync(); // what was under way
        long before = await MismatchesAsync(pair.Dst);
        await pair.Dst.GuestDoesIoAsync();
        await pair.Dst.GuestDoesIoAsync();
        Assert.Equal(before, await MismatchesAsync(pair.Dst));
    }

    private static async Task<long> MismatchesAsync(Qmp machine) => (await machine.GuestAsync()).GetProperty("mismatches").GetInt64();

    private static async Task MoveAsync(Stage stage, Pair pair)
    {
        await pair.Src.SetAsync(("downtime-limit", Stage.Patient), ("x-verify-pages", "true"));
        await pair.Src.MigrateAsync($"unix:{stage.In("mig.sock")}");
        JsonElement migration = await pair.Src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{pair.Everything}");
        await pair.Dst.InStateAsync("running");
        await pair.Dst.GuestDoesIoAsync();
        JsonElement verification = (await pair.Dst.MigrationAsync()).GetProperty("x-godwit").GetProperty("verification");
        Assert.Equal(0, verification.GetProperty("pages-differing").GetInt64());
    }

    /// <summary>A file system in memory, of a size. Skips the test where none can be mounted.</summary>
    private sealed class SmallDisk : IAsyncDisposable
    {
        public required string Path { get; init; }

        public static async Task<SmallDisk> MountAsync(string path, string size)
        {
            Assert.SkipUnless(Environment.IsPrivilegedProcess, "mounting a small file system needs root");
            Directory.CreateDirectory(path);
            Assert.SkipUnless(await RunAsync("mount", "-t", "tmpfs", "-o", $"size={size}", "godwit-test", path), "no file system can be mounted here");
            return new SmallDisk { Path = path };
        }

        public async Task ResizeAsync(string size) => Assert.True(await RunAsync("mount", "-o", $"remount,size={size}", Path));

        public async ValueTask DisposeAsync() => Assert.True(await RunAsync("umount", "-l", Path)); // its users are ended after it

        private static async Task<bool> RunAsync(params IReadOnlyList<string> line)
        {
            using Process process = Process.Start(new ProcessStartInfo(line[0], line.Skip(1)) { RedirectStandardError = true, UseShellExecute = false })!;
            await process.StandardError.ReadToEndAsync();
            await process.WaitForExitAsync();
            return process.ExitCode == 0;
        }
    }
}
