namespace Godwit.Vfio.Tests;

/// <summary>Faults that can be put into the tracker of the host's dirty bits.</summary>
public enum HostIommuFault
{
    /// <summary>None: the tracker as it is.</summary>
    None,

    /// <summary>Bits die with their mapping, unread.</summary>
    DropUnmapHarvest,

    /// <summary>With iommufd, bits are read before the unmap, and what is written between the two is forgotten.</summary>
    QueryBeforeUnmap,

    /// <summary>Queries end where it suits them, also in the middle of a large page of the tables.</summary>
    CutMappings,

    /// <summary>When bits could not be read they are set anew, and what was written meanwhile is forgotten.</summary>
    ForgetAfterLoss,
}

/// <summary>
/// One random life of a machine whose device is followed by the host's IOMMU, migrated some times, with every kernel rule at work; all from one
/// seed.
/// </summary>
internal sealed class HostIommuLife : IDisposable
{
    private readonly Random _random;
    private readonly HostRig _rig;
    private readonly RandomGuest _guest;
    private readonly DirtyOracle _oracle;
    private bool _quiet;
    private int _stepsLeft;

    public HostIommuLife(int seed, HostIommuFault fault, int maxSteps = int.MaxValue)
    {
        _random = new Random(seed);
        _stepsLeft = maxSteps;
        bool type1 = fault is not (HostIommuFault.CutMappings or HostIommuFault.QueryBeforeUnmap) && _random.Next(2) == 0;
        _rig = new HostRig(
            new ModelHostIommuTraits
            {
                Shape = type1 ? HostIommuShape.UnmapWithBitmap : HostIommuShape.UnmapForgets,
                GranulePages = _random.Next(4) == 0 ? 4UL : 1,
                MaxBitmapBits = _random.Next(3) == 0 ? (ulong)_random.Next(8, 300) : ulong.MaxValue,
                LargestIoPage = fault == HostIommuFault.CutMappings ? 512 : 1UL << _random.Next(10),
                TracksWrites = _random.Next(8) != 0,
                QueryFailsPercent = fault == HostIommuFault.ForgetAfterLoss ? 20 : _random.Next(3) == 0 ? 5 : 0,
                FailureSticks = _random.Next(2) == 0,
                MaxMappings = _random.Next(4) == 0 ? 40 : 65535,
            },
            seed,
            rig => new FaultyTracker(rig, fault));
        _guest = new RandomGuest(_rig.Board, _random);
        _oracle = new DirtyOracle(_rig.Board);
        _rig.Host.Wrote = _oracle.Wrote;
        _rig.Host.Meanwhile = () =>
        {
            if (!_quiet && _random.Next(3) == 0)
                Dma(1);
        };
        _rig.Host.Leaving = iova =>
        {
            if (!_quiet && _random.Next(3) == 0 && _rig.Host.Dma(iova.First + (ulong)_random.NextInt64((long)iova.Count)))
                LastMoments++;
        };
    }

    public long Writes => _oracle.Writes;

    public int Steps { get; private set; }

    public int Completed { get; private set; }

    public int Failed { get; private set; }

    /// <summary>DMA writes through a mapping while it was being unmapped.</summary>
    public int LastMoments { get; private set; }

    /// <summary>Lives it, and when a page is lost, looks for the shortest beginning of the same life in which one is.</summary>
    public static string? Judge(int seed, HostIommuFault fault, out HostIommuLife life)
    {
        using (life = new HostIommuLife(seed, fault))
        {
            if (life.FindLost() is not { } whole)
                return null;
            for (int steps = 1; steps < life.Steps; steps++)
            {
                using var shorter = new HostIommuLife(seed, fault, steps);
                if (shorter.FindLost() is { } lost)
                    return $"seed {seed}, first {steps} of {life.Steps} steps: {lost}";
            }

            return $"seed {seed}, {life.Steps} steps: {whole}";
        }
    }

    public void Dispose() => _rig.Dispose();

    private string? FindLost()
    {
        try
        {
            for (int i = _random.Next(30); i > 0; i--)
                _guest.Step();
            for (int migrations = _random.Next(1, 4); migrations > 0 && _stepsLeft > 0; migrations--)
                Migrate();
            return null;
        }
        catch (LostPageException e)
        {
            return e.Message;
        }
    }

    private void Migrate()
    {
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
                _guest.Step();
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
        _oracle.BeginSync();
        _rig.Tracker.Sync(final);
        if (_oracle.FindLost() is { } lost)
            throw new LostPageException(lost);
    }

    private void Dma(int writes)
    {
        for (int i = 0; i < writes; i++)
        {
            if (_rig.Host.AnyWritable(_random) is { } page)
                _rig.Host.Dma(page);
        }
    }

    private sealed class FaultyTracker(HostRig rig, HostIommuFault fault)
        : HostIommuTracker("dev0", rig.Host, rig.Shadow, new DirtyMarker(rig.Board.Ram.Dirty), rig.NoticeBoard)
    {
        protected override bool KeepsMappingsWhole => fault != HostIommuFault.CutMappings;

        public override bool TryUnmap(in Mapping mapping) => fault switch
        {
            HostIommuFault.DropUnmapHarvest => false,
            HostIommuFault.QueryBeforeUnmap when mapping.Writable && TryQuery(mapping) => false,
            _ => base.TryUnmap(mapping),
        };

        protected override void MarkAfterLoss()
        {
            if (fault != HostIommuFault.ForgetAfterLoss)
                base.MarkAfterLoss();
        }

        private bool TryQuery(in Mapping mapping)
        {
            ulong granule = rig.Host.Traits.PageBytes / 4096;
            if (((mapping.Iova.First | mapping.Iova.Count) & (granule - 1)) != 0)
                return false;
            var bitmap = new LogBitmap((int)(mapping.Iova.Count / 8) + 8);
            try
            {
                rig.Host.QueryDirty(mapping.Iova, bitmap.Prepare(mapping.Iova, granule));
            }
            catch (DeviceRefusedException)
            {
                return false;
            }

            bitmap.Attribute(mapping, new DirtyMarker(rig.Board.Ram.Dirty));
            return true;
        }
    }
}
