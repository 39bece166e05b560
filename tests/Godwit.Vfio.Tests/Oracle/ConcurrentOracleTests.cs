using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// The invariant with real threads: vCPUs that map and unmap, one that moves the device between domains, a device that writes, and a migration
/// that syncs and transfers, all at once. Nothing is judged before all stand still; no time is measured.
/// </summary>
public sealed class ConcurrentOracleTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(120);

    [Theory]
    [InlineData(1, 0)]
    [InlineData(2, 20)]
    [InlineData(3, HarvestQueue.DefaultLimit)]
    public void NoPageIsLostWhileEverythingMovesAtOnce(int seed, int harvestLimit)
    {
        using var rig = new Rig(seed, tracker: (r, shadow, notices, plans) => new OracleTracker("dev0", r.Board.Slots[0], r.Device, shadow, r.Board.Ram.Dirty, notices, plans, Mutation.None, harvestLimit));
        var oracle = new DirtyOracle(rig.Board);
        oracle.Watch(rig.Device);
        rig.Board.Ram.Dirty.Start();
        oracle.Begin();
        rig.Tracker.Start();

        using var stopGuest = new CancellationTokenSource();
        using var stopDevice = new CancellationTokenSource();
        var guest = new Worker(seed + 1, (random, _) => GuestStep(rig, random), stopGuest.Token);
        var domains = new Worker(seed + 2, (_, round) =>
        {
            // A domain switch is rare against everything else; an empty transaction takes the same lock otherwise.
            if (round % 64 == 0)
                rig.Board.SetPassThrough(!rig.Board.IsPassThrough);
            else
                Thread.Yield();
        }, stopGuest.Token);
        var device = new Worker(seed + 3, (random, _) =>
        {
            if (rig.Device.AnyWritable(random) is { } page)
                rig.Device.Dma(page);
        }, stopDevice.Token);

        var migration = new Random(seed);
        using var patience = new CancellationTokenSource(Patience);
        for (int round = 0; (round < 400 || rig.Shadow.MappedCount < 2000 || oracle.Writes < 2000) && !patience.IsCancellationRequested; round++)
        {
            rig.Tracker.Sync(final: false);
            for (int i = 0; i < 8; i++)
                oracle.Transfer(64 * (ulong)migration.NextInt64((long)ModelBoard.RamPages / 64));
        }

        stopGuest.Cancel();
        guest.Join();
        domains.Join();
        stopDevice.Cancel();
        device.Join();
        rig.Tracker.Sync(final: true);
        oracle.BeginSync(); // all stand still
        Assert.Null(oracle.FindLost());
        Assert.Equal(rig.Device.Mappings, rig.Installed);
        Assert.True(oracle.Writes >= 2000, $"only {oracle.Writes} writes");
        Assert.True(rig.Shadow.MappedCount >= 2000, $"only {rig.Shadow.MappedCount} mappings");
        Assert.Empty(rig.Notices);
    }

    private static void GuestStep(Rig rig, Random random)
    {
        // Tables belong to this thread; pages only come and go through it.
        ulong iova = 0x1000 + (ulong)random.NextInt64(0x100);
        ModelIommu iommu = rig.Board.Iommu;
        if (random.Next(2) == 0)
            iommu.Tables[iova] = (ModelBoard.LowGpa + (ulong)random.NextInt64((long)ModelBoard.BlockPages), AccessRights.ReadWrite);
        else
            iommu.Tables.Remove(iova);
        iommu.Invalidate(iova, iova + 1);
    }

    private sealed class Worker
    {
        private readonly Thread _thread;
        private Exception? _failure;

        public Worker(int seed, Action<Random, int> step, CancellationToken stop)
        {
            _thread = new Thread(() =>
            {
                try
                {
                    var random = new Random(seed);
                    for (int round = 0; !stop.IsCancellationRequested; round++)
                        step(random, round);
                }
                catch (Exception e)
                {
                    _failure = e;
                }
            });
            _thread.Start();
        }

        public void Join()
        {
            Assert.True(_thread.Join(Patience), "a worker hangs");
            if (_failure is not null)
                throw new InvalidOperationException("A worker failed", _failure);
        }
    }
}
