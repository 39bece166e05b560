using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>A page that the tracker lost.</summary>
internal sealed class LostPageException(string message) : Exception(message);

/// <summary>
/// One random life of a machine under migration: the guest edits tables, invalidates, and moves its device between domains; the device writes
/// at any moment, also in the middle of an unmap or a report; the migration syncs, transfers, is cancelled, starts again, ends. All from one
/// seed.
/// </summary>
internal sealed class Interleaving : IDisposable
{
    /// <summary>IOVAs that the guest uses: some windows around the interrupt window, and few enough to be reused all the time.</summary>
    private const ulong FirstIova = 0xF20;
    private const ulong IovaCount = 0x240;

    /// <summary>A second cluster for large mappings.</summary>
    private const ulong LargeIova = 0x2010;

    private readonly Random _random;
    private readonly Rig _rig;
    private readonly DirtyOracle _oracle;
    private bool _quiet;
    private int _stepsLeft;

    public Interleaving(int seed, Mutation mutation = Mutation.None, int maxSteps = int.MaxValue)
    {
        _random = new Random(seed);
        _stepsLeft = maxSteps;
        ulong threshold = (ulong)(_random.Next(3) switch { 0 => 0, 1 => 40, _ => 512 });
        _rig = new Rig(seed, Traits(mutation), tracker: (rig, shadow, notices, plans) => new OracleTracker(rig, shadow, notices, Plans(plans), mutation, threshold));
        _oracle = new DirtyOracle(_rig.Board, _rig.Device);
        _rig.Device.Meanwhile = () =>
        {
            if (!_quiet && _random.Next(3) == 0)
                Dma(1);
        };
    }

    /// <summary>DMA writes that happened.</summary>
    public long Writes => _oracle.Writes;

    /// <summary>Migrations that came to their end.</summary>
    public int Completed { get; private set; }

    /// <summary>Steps lived.</summary>
    public int Steps { get; private set; }

    /// <summary>Starts anew of the log.</summary>
    public int Rearms { get; private set; }

    /// <summary>Migrations that failed because the log was lost twice.</summary>
    public int Failed { get; private set; }

    /// <summary>
    /// Lives it, and when a page is lost, looks for the shortest beginning of the same life in which one is. Null when none is.
    /// </summary>
    public static string? Judge(int seed, Mutation mutation, out Interleaving life)
    {
        life = new Interleaving(seed, mutation);
        try
        {
            life.Run();
            return null;
        }
        catch (LostPageException whole)
        {
            for (int steps = 1; steps < life.Steps; steps++)
            {
                using var shorter = new Interleaving(seed, mutation, steps);
                try
                {
                    shorter.Run();
                }
                catch (LostPageException e)
                {
                    return $"seed {seed}, first {steps} of {life.Steps} steps: {e.Message}";
                }
            }

            return $"seed {seed}, {life.Steps} steps: {whole.Message}";
        }
        finally
        {
            life.Dispose();
        }
    }

    /// <summary>Lives it; throws <see cref="LostPageException"/> when the invariant does not hold.</summary>
    public void Run()
    {
        for (int i = _random.Next(30); i > 0; i--)
            GuestStep();
        for (int migrations = _random.Next(1, 4); migrations > 0 && _stepsLeft > 0; migrations--)
        {
            Migrate();
            for (int i = _random.Next(10); i > 0; i--)
                GuestStep();
        }

        AssertTheTableIsWhatIsInstalled();
    }

    public void Dispose() => _rig.Dispose();

    private void Migrate()
    {
        _quiet = false;
        _rig.Board.Ram.Dirty.Start();
        _oracle.Begin();
        _rig.Tracker.Start();
        try
        {
            for (int steps = _random.Next(5, 80); steps > 0 && _stepsLeft > 0; steps--)
                Step();
            if (_stepsLeft == 0 || _random.Next(4) != 0)
            {
                _quiet = true; // vCPUs and devices stand still
                Sync(final: true);
                Completed++;
            }
        }
        catch (DirtyLogLostException)
        {
            Failed++;
        }
        finally
        {
            _quiet = false;
            Rearms += _rig.Tracker.Explain(DirtyTrackingMode.Auto).Rearms;
            _rig.Tracker.Stop();
            _rig.Board.Ram.Dirty.Stop();
        }
    }

    private void Step()
    {
        _stepsLeft--;
        Steps++;
        switch (_random.Next(10))
        {
            case < 5:
                GuestStep();
                break;
            case < 7:
                Dma(_random.Next(1, 20));
                break;
            case 7:
                Sync(final: false);
                break;
            default:
                for (int i = _random.Next(1, 20); i > 0; i--)
                    _oracle.Transfer(64 * (ulong)_random.NextInt64((long)ModelBoard.RamPages / 64), () => Dma(_random.Next(3)));
                break;
        }
    }

    private void Sync(bool final)
    {
        long[] before = _oracle.Snapshot();
        _rig.Tracker.Sync(final);
        if (_oracle.FindLost(before) is { } lost)
            throw new LostPageException(lost);
    }

    private void GuestStep()
    {
        ModelIommu iommu = _rig.Board.Iommu;
        ulong iova = FirstIova + (ulong)_random.NextInt64((long)IovaCount);
        ulong count = (ulong)_random.Next(1, _random.Next(3) == 0 ? 60 : 5);
        switch (_random.Next(20))
        {
            case < 7: // map, with or without telling
                ulong gpa = AnyGpa(count);
                AccessRights rights = _random.Next(4) == 0 ? AccessRights.Read : AccessRights.ReadWrite;
                for (ulong i = 0; i < count; i++)
                {
                    if (iova + i != ModelBoard.InterruptWindow)
                        iommu.Tables[iova + i] = (gpa + i, rights);
                }

                break;
            case < 12: // clear, with or without telling
                for (ulong i = 0; i < count; i++)
                    iommu.Tables.Remove(iova + i);
                break;
            case < 17:
                iommu.Invalidate(iova, iova + count);
                return;
            case 17:
                iommu.Invalidate(0, ModelBoard.AperturePages);
                return;
            case 18: // all of a block by large pages, or gone
                bool map = _random.Next(2) == 0;
                for (ulong i = 0; i < ModelBoard.BlockPages; i++)
                {
                    if (map)
                        iommu.Tables[LargeIova + i] = (ModelBoard.HighGpa + i, AccessRights.ReadWrite);
                    else
                        iommu.Tables.Remove(LargeIova + i);
                }

                iommu.Invalidate(LargeIova, LargeIova + ModelBoard.BlockPages);
                return;
            default:
                if (_random.Next(3) == 0)
                    _rig.Board.SetPassThrough(!_rig.Board.IsPassThrough);
                return;
        }

        if (_random.Next(3) != 0)
            iommu.Invalidate(iova, iova + count);
    }

    private ulong AnyGpa(ulong count) => _random.Next(12) switch
    {
        0 => ModelBoard.MmioGpa,
        1 => ModelBoard.RomGpa,
        2 => ModelBoard.LowGpa + ModelBoard.BlockPages - 2, // runs out of RAM
        < 7 => ModelBoard.LowGpa + (ulong)_random.NextInt64((long)(ModelBoard.BlockPages - count)),
        _ => ModelBoard.HighGpa + (ulong)_random.NextInt64((long)(ModelBoard.BlockPages - count)),
    };

    private void Dma(int writes)
    {
        for (int i = 0; i < writes; i++)
        {
            if (_rig.Device.AnyWritable(_random) is { } page)
                _rig.Device.Dma(page);
        }
    }

    private ModelDeviceTraits Traits(Mutation mutation) => new()
    {
        LogPageSize = 4096UL << (_random.Next(3) == 0 ? _random.Next(1, 5) : 0),
        ClearsWholeWords = _random.Next(2) == 0,
        MaxReportBytes = 8 << _random.Next(0, 10),
        MaxMappings = _random.Next(4) == 0 ? 40 : 65535,
        ReportFailsPercent = mutation == Mutation.ForgetAfterLoss ? 20 : _random.Next(4) == 0 ? 5 : 0,
        FailureSticks = _random.Next(2) == 0,
        MaxRanges = _random.Next(3) switch { 0 => 1, 1 => 3, _ => 256 },
        MaxSpan = mutation == Mutation.ForgetAfterRearm || _random.Next(2) == 0 ? 64UL << _random.Next(1, 8) : ulong.MaxValue,
        MinSpan = _random.Next(4) == 0 ? 64UL << _random.Next(0, 5) : 0,
        OneRegion = _random.Next(3) == 0,
        LongestRange = _random.Next(6) == 0 ? 100 : ulong.MaxValue,
    };

    /// <summary>Sometimes only the aperture, so that RAM above it is uncovered.</summary>
    private Func<IReadOnlyList<CoveragePlan>> Plans(Func<IReadOnlyList<CoveragePlan>> plans) =>
        _random.Next(4) == 0 ? () => [plans()[1]] : plans;

    private void AssertTheTableIsWhatIsInstalled() => Assert.Equal(_rig.Device.Mappings, _rig.Installed);
}
