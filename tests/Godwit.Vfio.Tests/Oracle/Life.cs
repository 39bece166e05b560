using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// One random life of a machine under migration: the guest edits tables, invalidates, reuses IOVAs at once, maps one page through many, and moves
/// its devices between domains; the devices write at any moment, also in the middle of an unmap, of a report, and of a new start of their log; the
/// migration syncs, transfers, is cancelled, fails, starts again, ends. Each step comes from the seed and its own number alone.
/// </summary>
internal sealed class Life : IDisposable
{
    /// <summary>IOVAs that the guest uses: some windows around the interrupt window, and few enough to be reused all the time.</summary>
    private const ulong FirstIova = 0xF20;
    private const ulong IovaCount = 0x240;

    /// <summary>A second cluster for large mappings.</summary>
    private const ulong LargeIova = 0x2010;

    private readonly World _world;
    private readonly OracleRandom _random;
    private readonly int _seed, _steps;
    private readonly IReadOnlySet<int> _without;
    private readonly LifeTotals _totals;
    private readonly List<string>? _trace;
    private readonly LifeDevice[] _devices;
    private readonly GuestHabit _habit;
    private readonly long _writesBefore;
    private ulong _cursor = FirstIova + IovaCount; // where a guest that allocates downwards will
    private bool _quiet, _migrating, _movedDuringSync;

    /// <summary>A life of a guest and its devices, from its seed.</summary>
    /// <param name="world">Where.</param>
    /// <param name="seed">Of everything.</param>
    /// <param name="mutation">The fault in the tracker.</param>
    /// <param name="without">Numbers of steps that are left out.</param>
    /// <param name="totals">What happens is added to it.</param>
    /// <param name="trace">Takes a line for each step; null for none.</param>
    public Life(World world, int seed, Mutation mutation, IReadOnlySet<int> without, LifeTotals totals, List<string>? trace = null)
    {
        (_world, _random, _seed, _without, _totals, _trace) = (world, world.Random, seed, without, totals, trace);
        _writesBefore = world.Oracle.Writes;
        _steps = StepsOf(world, seed); // begins the stream
        _habit = (GuestHabit)_random.Next(5);
        _devices = new LifeDevice[_random.Next(4) == 0 ? 2 : 1];
        for (int i = 0; i < _devices.Length; i++)
        {
            LifeDevice device = _devices[i] = LifeDevice.Plug(world, i, mutation, _random);
            device.Model.Meanwhile = () =>
            {
                if (!_quiet && _random.Next(3) == 0)
                    Dma(device, 1);
            };
            device.Model.Restarting = () =>
            {
                if (!_quiet)
                    Dma(device, _random.Next(6));
            };
            device.Model.Reported = () =>
            {
                if (_quiet || _random.Next(4) != 0)
                    return;
                _movedDuringSync = true;
                GuestStep(device);
            };
        }
    }

    private enum GuestHabit
    {
        Anything,
        ReusesAtOnce,
        Aliases,
        Descends,
        SwitchesDomains,
    }

    /// <summary>Steps of the life of a seed.</summary>
    public static int StepsOf(World world, int seed)
    {
        world.Random.Reseed(seed, -1);
        return world.Random.Next(10, 90);
    }

    /// <summary>Lives it; throws <see cref="LostPageException"/> when the invariant does not hold.</summary>
    public void Run()
    {
        for (int step = 0; step < _steps; step++)
        {
            if (_without.Contains(step))
                continue;
            _random.Reseed(_seed, step);
            _totals.Steps++;
            try
            {
                Step();
            }
            catch (DirtyLogLostException)
            {
                _trace?.Add("the migration fails");
                _totals.Failed++;
                End();
            }
        }

        if (_migrating)
            Complete();
        foreach (LifeDevice device in _devices)
            device.AssertTheTableIsWhatIsInstalled();
    }

    public void Dispose()
    {
        if (_migrating)
            End();
        _totals.Lives++;
        _totals.Writes += _world.Oracle.Writes - _writesBefore;
        foreach (LifeDevice device in _devices)
        {
            _totals.Maps += device.Shadow.MappedCount;
            _totals.Unmaps += device.Shadow.UnmappedCount;
            device.Dispose();
        }
    }

    private void Step()
    {
        LifeDevice device = _devices[_random.Next(_devices.Length)];
        int action = _random.Next(100);
        if (action < 48)
        {
            GuestStep(device);
        }
        else if (action < 66)
        {
            Dma(device, _random.Next(1, 12));
        }
        else if (!_migrating)
        {
            Begin();
        }
        else if (action < 80)
        {
            Sync(final: false);
        }
        else if (action < 95)
        {
            Transfer();
        }
        else if (action < 98)
        {
            Complete();
        }
        else
        {
            _trace?.Add("cancel");
            _totals.Cancelled++;
            End();
        }
    }

    private void Begin()
    {
        _trace?.Add("migrate");
        _world.StartRecording();
        _world.Oracle.Begin();
        _migrating = true;
        foreach (LifeDevice device in _devices)
            device.Tracker.Start();
    }

    private void End()
    {
        _migrating = false;
        foreach (LifeDevice device in _devices)
        {
            _totals.Rearms += device.Tracker.Explain(DirtyTrackingMode.Auto).Rearms;
            device.Tracker.Stop();
        }

        _world.StopRecording();
    }

    private void Sync(bool final)
    {
        _trace?.Add(final ? "final sync" : "sync");
        _totals.Syncs++;
        _world.Oracle.BeginSync();
        _movedDuringSync = false;
        foreach (LifeDevice device in _devices)
            device.Tracker.Sync(final);
        // What is unmapped during a sync may be brought by the next one. The last one of a migration has nobody beside it.
        if (!_movedDuringSync && _world.Oracle.FindLost() is { } lost)
            throw new LostPageException(lost);
    }

    private void Complete()
    {
        _quiet = true; // vCPUs and devices stand still
        try
        {
            Sync(final: true);
            _totals.Completed++;
        }
        catch (DirtyLogLostException)
        {
            _totals.Failed++;
        }
        finally
        {
            _quiet = false;
            End();
        }
    }

    private void Transfer()
    {
        _trace?.Add("transfer");
        LifeDevice device = _devices[0];
        for (int i = _random.Next(1, 20); i > 0; i--)
            _world.Oracle.Transfer(64 * (ulong)_random.NextInt64((long)ModelBoard.RamPages / 64), () => Dma(device, _random.Next(3)));
    }

    private void Dma(LifeDevice device, int writes)
    {
        for (int i = 0; i < writes; i++)
        {
            if (device.Model.AnyWritable(_random) is not { } page)
                continue;
            device.Model.Dma(page);
            _trace?.Add($"device {device.Tracker.Id} writes 0x{page:x}");
        }
    }

    private void GuestStep(LifeDevice device)
    {
        ulong iova = FirstIova + (ulong)_random.NextInt64((long)IovaCount);
        ulong count = (ulong)_random.Next(1, _random.Next(4) == 0 ? 40 : 5);
        int action = _random.Next(100);
        switch (_habit)
        {
            case GuestHabit.ReusesAtOnce when action < 60:
                Reuse(device, count);
                return;
            case GuestHabit.Aliases when action < 6:
                // One page through hundreds of IOVAs.
                Edit(device, iova, (ulong)_random.Next(50, 400), AnyGpa(1), step: 0, AccessRights.ReadWrite);
                return;
            case GuestHabit.Aliases when action < 50:
                Edit(device, iova, count, AnyGpa(1), step: 0, AccessRights.ReadWrite);
                return;
            case GuestHabit.Descends when action < 50:
                _cursor = _cursor < FirstIova + count ? FirstIova + IovaCount : _cursor - count;
                Edit(device, _cursor, count, AnyGpa(count), step: 1, AccessRights.ReadWrite);
                return;
            case GuestHabit.SwitchesDomains when action < 12:
                SwitchDomain(device);
                return;
        }

        switch (action)
        {
            case < 40:
                Edit(device, iova, count, AnyGpa(count), step: 1, _random.Next(4) == 0 ? AccessRights.Read : AccessRights.ReadWrite);
                break;
            case < 65:
                Clear(device, iova, count);
                break;
            case < 85:
                Invalidate(device, iova, iova + count);
                break;
            case < 90:
                Invalidate(device, 0, ModelBoard.AperturePages);
                break;
            case < 94: // all of a block by large pages, or gone
                if (_random.Next(2) == 0)
                    Edit(device, LargeIova, ModelBoard.BlockPages / 8, ModelBoard.HighGpa, step: 1, AccessRights.ReadWrite);
                else
                    Clear(device, LargeIova, ModelBoard.BlockPages / 8);
                break;
            case < 96:
                SwitchDomain(device);
                break;
            default:
                Reuse(device, count);
                break;
        }
    }

    /// <summary>Tables change, with or without telling.</summary>
    private void Edit(LifeDevice device, ulong iova, ulong count, ulong gpa, ulong step, AccessRights rights)
    {
        _trace?.Add($"guest maps 0x{iova:x} +{count} to GPA page 0x{gpa:x}{(step == 0 ? ", all of them" : "")}, {rights}");
        for (ulong i = 0; i < count; i++)
        {
            if (iova + i != ModelBoard.InterruptWindow)
                device.Slot.Iommu.Tables[iova + i] = (gpa + i * step, rights);
        }

        if (_random.Next(3) != 0)
            Invalidate(device, iova, iova + count);
    }

    private void Clear(LifeDevice device, ulong iova, ulong count)
    {
        _trace?.Add($"guest clears 0x{iova:x} +{count}");
        for (ulong i = 0; i < count; i++)
            device.Slot.Iommu.Tables.Remove(iova + i);
        if (_random.Next(3) != 0)
            Invalidate(device, iova, iova + count);
    }

    /// <summary>IOVAs that are in use show other pages, by one invalidation or by two.</summary>
    private void Reuse(LifeDevice device, ulong count)
    {
        GuestTables tables = device.Slot.Iommu.Tables;
        ulong first = tables.Next(FirstIova + (ulong)_random.NextInt64((long)IovaCount), ModelBoard.AperturePages);
        if (first == ModelBoard.AperturePages)
            return;
        count = Math.Min(count, ModelBoard.AperturePages - first);
        if (_random.Next(2) == 0)
        {
            for (ulong i = 0; i < count; i++)
                tables.Remove(first + i);
            Invalidate(device, first, first + count);
        }

        ulong gpa = AnyGpa(count);
        _trace?.Add($"guest reuses 0x{first:x} +{count} for GPA page 0x{gpa:x}");
        for (ulong i = 0; i < count; i++)
        {
            if (first + i != ModelBoard.InterruptWindow)
                tables[first + i] = (gpa + i, AccessRights.ReadWrite);
        }

        Invalidate(device, first, first + count);
        Dma(device, _random.Next(3));
    }

    private void Invalidate(LifeDevice device, ulong first, ulong end)
    {
        _trace?.Add($"guest invalidates 0x{first:x} to 0x{end:x}");
        device.Slot.Iommu.Invalidate(first, end);
    }

    private void SwitchDomain(LifeDevice device)
    {
        _trace?.Add($"guest moves device {device.Tracker.Id} to {(device.Slot.IsPassThrough ? "translation" : "pass-through")}");
        _totals.Switches++;
        device.Slot.SetPassThrough(!device.Slot.IsPassThrough);
    }

    private ulong AnyGpa(ulong count) => _random.Next(12) switch
    {
        0 => ModelBoard.MmioGpa,
        1 => ModelBoard.RomGpa,
        2 => ModelBoard.LowGpa + ModelBoard.BlockPages - 2, // runs out of RAM
        < 7 => ModelBoard.LowGpa + (ulong)_random.NextInt64((long)(ModelBoard.BlockPages - count)),
        _ => ModelBoard.HighGpa + (ulong)_random.NextInt64((long)(ModelBoard.BlockPages - count)),
    };
}
