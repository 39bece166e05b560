using System.Text.Json;

namespace Godwit.EndToEnd.Tests;

/// <summary>The proof is worth something only if it fails when something is lost.</summary>
public sealed class ProofOfProofTests
{
    private const int BlockBytes = 4096;

    [Fact]
    public async Task One_withheld_page_fails_the_migration_and_is_named()
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        var withheld = new WithheldPage();
        MigrationProxy proxy = stage.Own(MigrationProxy.Rewriting(stage.In("proxy.sock"), stage.In("mig.sock"), withheld.Rewrite));
        await pair.Src.SetAsync(("x-verify-pages", "true"), ("x-min-precopy", "1000"), ("downtime-limit", Stage.Patient));
        await pair.Src.MigrateAsync(proxy.Uri);
        JsonElement migration = await pair.Src.MigratedAsync();
        Assert.NotNull(withheld.Page);
        Assert.True(migration.GetProperty("status").GetString() == "failed", $"{migration}\n{pair.Everything}");
        string error = migration.GetProperty("error-desc").GetString()!;
        Assert.Contains("1 of 32768 pages differ", error, StringComparison.Ordinal);
        Assert.Contains($"main+0x{withheld.Page.Value * BlockBytes:x}", error, StringComparison.Ordinal);

        await pair.Src.InStateAsync("running");
        await pair.Src.GuestDoesIoAsync();
        Assert.NotEqual("running", await DestinationStateAsync(pair));
    }

    [Fact]
    public async Task The_same_stream_with_nothing_withheld_passes()
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        MigrationProxy proxy = stage.Own(MigrationProxy.Rewriting(
            stage.In("proxy.sock"), stage.In("mig.sock"), static frame => [(frame.Type, frame.Payload)]));
        await pair.Src.SetAsync(("x-verify-pages", "true"), ("x-min-precopy", "500"), ("downtime-limit", Stage.Patient));
        await pair.Src.MigrateAsync(proxy.Uri);
        JsonElement migration = await pair.Src.MigratedAsync();
        Assert.True(migration.GetProperty("status").GetString() == "completed", $"{migration}\n{pair.Everything}");
        await pair.Dst.GuestDoesIoAsync();
    }

    [Fact]
    public async Task A_corrupted_block_of_the_image_is_found_by_the_guest()
    {
        await using var stage = new Stage { Guest = "nvme-stress,queue-depth=16,dirty-rate=0,region=1M,read-percent=80,churn=0,seed=5" };
        await stage.DeviceAsync("a");
        await stage.SourceAsync();
        Qmp machine = await stage.QmpAsync("src");
        await machine.GuestDoesIoAsync();

        // The guest may write the block again before it reads it; then another one is damaged.
        await Qmp.UntilAsync(
            async () =>
            {
                await machine.ExecuteAsync("stop");
                Corrupt(stage.In("disk.img"));
                await machine.ExecuteAsync("cont");
                await machine.GuestDoesIoAsync();
                return (await machine.GuestAsync()).GetProperty("mismatches").GetInt64() > 0;
            },
            "no mismatch was found");
        JsonElement details = (await machine.GuestAsync()).GetProperty("mismatch-details");
        Assert.Contains("block", details[0].GetString(), StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public async Task A_corrupted_block_of_the_image_fails_the_demo()
    {
        await using var stage = new Stage();
        GodwitProcess demo = stage.Start(
            "demo", "--memory", "128M", "--run-for", "2s", "--expect-io", "1", "--expect-mappings", "1", "--downtime-limit", "1s");
        await demo.WaitForAsync("Letting it run on the destination");
        string image = Directory.EnumerateFiles(stage.Folder, "disk.img", SearchOption.AllDirectories).Single();

        // Until the very end, so that no later write of the guest heals it.
        using (FileStream file = new(image, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
        {
            byte[] damage = [1, 2, 3, 4];
            while (!demo.HasExited)
            {
                file.Position = 100;
                file.Write(damage);
                file.Flush();
                await Task.Yield();
            }
        }

        Assert.Equal(1, await demo.ExitAsync());
        Assert.Contains(demo.Output, line => line.Contains("FAILED the disk image holds what the guest wrote", StringComparison.Ordinal));
        Assert.Contains(demo.Output, line => line.Contains("block 0, sector 0", StringComparison.Ordinal));
    }

    private static async Task<string> DestinationStateAsync(Pair pair)
    {
        try
        {
            return await pair.Dst.StateAsync();
        }
        catch (IOException)
        {
            return "gone";
        }
    }

    /// <summary>Flips one bit of the first block that holds something.</summary>
    private static void Corrupt(string path)
    {
        using FileStream file = new(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        byte[] block = new byte[BlockBytes];
        for (int at = 0; file.ReadAtLeast(block, BlockBytes, throwOnEndOfStream: false) == BlockBytes; at += BlockBytes)
        {
            if (block.AsSpan().ContainsAnyExcept((byte)0))
            {
                block[1000] ^= 1;
                file.Position = at;
                file.Write(block);
                return;
            }
        }

        Assert.Fail("the guest has written nothing");
    }
}
