using Godwit.Memory;

namespace Godwit.Migration.Tests;

/// <summary>A machine for the engine: real RAM, fake devices, "vCPUs" that are threads which write memory while they are allowed to.</summary>
internal sealed class TestMachine : IMigrationHost, IDisposable
{
    private readonly List<MigrationBlocker> _blockers = [];
    private readonly ManualResetEventSlim _run = new(false);
    private readonly List<Thread> _vcpus = [];
    private readonly ReaderWriterLockSlim _barrier = new();
    private volatile bool _end;
    private bool? _before; // it ran before the switchover that is under way
    private int _throttle;

    public TestMachine(ulong mebibytes = 4, int devices = 1, bool running = true, bool twoBlocks = false)
    {
        Ram = new GuestRam();
        if (twoBlocks)
        {
            Ram.Add("low", 2 << 20);
            Ram.Add("high", (mebibytes << 20) - (2 << 20));
        }
        else
        {
            Ram.Add("main", mebibytes << 20);
        }

        for (int i = 0; i < devices; i++)
        {
            Devices.Add(new FakeDevice($"nvme{i}", Calls));
            Trackers.Add(new FakeTracker($"log{i}", Calls, Ram));
        }

        States.Add(new FakeState("iommu", Calls));
        States.Add(new FakeState("vcpu0", Calls));
        if (running)
            _run.Set();
    }

    public Journal Calls { get; } = new();

    public GuestRam Ram { get; }

    public List<FakeDevice> Devices { get; } = [];

    public List<FakeTracker> Trackers { get; } = [];

    public List<FakeState> States { get; } = [];

    public Dictionary<string, string> Description { get; } = new(StringComparer.Ordinal) { ["machine.type"] = "test", ["iommu.aw-bits"] = "39" };

    public List<MigrationBlocker> Blockers => _blockers;

    /// <summary>The guest is executing now.</summary>
    public bool Executing => _run.IsSet;

    public bool PostMigrate { get; private set; }

    public bool Arrived { get; private set; }

    /// <summary>This side may run the guest: exactly one of two must, at every end.</summary>
    public bool Owns => Executing || (!PostMigrate && Arrived);

    IReadOnlyList<IDirtyTracker> IMigrationHost.DirtyTrackers => Trackers;

    IReadOnlyList<IMigratableDevice> IMigrationHost.Devices => Devices;

    IReadOnlyList<IStateParticipant> IMigrationHost.States => States;

    bool IMigrationHost.IsRunning => _before ?? Executing;

    public MachineDescription Describe() => new(Description);

    public IReadOnlyList<MigrationBlocker> QueryBlockers() => [.. _blockers];

    /// <summary>Reasons against a handover; a handover with devices is the machine's to refuse.</summary>
    public List<MigrationBlocker> HandoverBlockers { get; } = [];

    public IReadOnlyList<MigrationBlocker> QueryHandoverBlockers() => [.. HandoverBlockers];

    public void StopForSwitchover()
    {
        Calls.Add("StopForSwitchover");
        _before = Executing;
        StopVcpus();
    }

    /// <summary>Per cent of the time in which the vCPUs rest.</summary>
    public int Throttle => Volatile.Read(ref _throttle);

    public void ThrottleVcpus(int percent)
    {
        Calls.Add($"ThrottleVcpus({percent})");
        Volatile.Write(ref _throttle, percent);
    }

    public void ResumeAfterFailure()
    {
        Calls.Add("ResumeAfterFailure");
        if (_before == true)
            _run.Set();
        _before = null;
    }

    public void EnterPostMigrate()
    {
        Calls.Add("EnterPostMigrate");
        PostMigrate = true;
    }

    public void StartAfterLoad(bool running)
    {
        Calls.Add($"StartAfterLoad({running})");
        Arrived = true;
        if (running)
            _run.Set();
    }

    /// <summary>The operator continues here after a migration whose other side did not start.</summary>
    public void TakeBack()
    {
        PostMigrate = false;
        foreach (FakeDevice device in Devices)
            device.Restart();
        _run.Set();
    }

    /// <summary>A vCPU: calls <paramref name="step"/> again and again while the guest runs.</summary>
    public void AddVcpu(Action<int> step)
    {
        int number = _vcpus.Count;
        var thread = new Thread(() =>
        {
            while (!_end)
            {
                _run.Wait();
                _barrier.EnterReadLock();
                try
                {
                    for (int i = 0; i < 64 && _run.IsSet && !_end; i++)
                        step(number);
                }
                finally
                {
                    _barrier.ExitReadLock();
                }
            }
        })
        { IsBackground = true, Name = $"vcpu {number}" };
        _vcpus.Add(thread);
        thread.Start();
    }

    /// <summary>A vCPU that writes random words to pages below <paramref name="pages"/>, and lets the first device do so, too.</summary>
    public void AddDirtyingVcpu(int seed, ulong pages)
    {
        var random = new Random(seed);
        byte[] word = new byte[8];
        AddVcpu(_ =>
        {
            ulong page = (ulong)random.NextInt64((long)pages);
            random.NextBytes(word);
            if (random.Next(4) == 0 && Trackers.Count > 0)
            {
                Trackers[0].Dma(page, BitConverter.ToUInt64(word));
                return;
            }

            Ram.TryResolve(new RamPage(page), out RamBlock block, out ulong offset);
            // Sometimes the whole page becomes zero, so that zero runs come late, too.
            if (random.Next(16) == 0)
                block.Write(offset, new byte[RamPage.Size], DirtySource.Vcpu);
            else
                block.Write(offset + ((ulong)random.Next(512) * 8), word, DirtySource.Vcpu);
        });
    }

    public void Fill(int seed)
    {
        var random = new Random(seed);
        byte[] page = new byte[RamPage.Size];
        foreach (RamBlock block in Ram.Blocks)
        {
            for (ulong offset = 0; offset < block.Size; offset += RamPage.Size)
            {
                if (random.Next(3) == 0)
                    continue;
                random.NextBytes(page);
                block.Write(offset, page, DirtySource.Vmm);
            }
        }
    }

    /// <summary>The first page whose contents differ, or null.</summary>
    public static unsafe string? FirstDifference(TestMachine left, TestMachine right)
    {
        for (int i = 0; i < left.Ram.Blocks.Count; i++)
        {
            RamBlock a = left.Ram.Blocks[i];
            RamBlock b = right.Ram.Blocks[i];
            for (ulong page = 0; page < a.PageCount; page++)
            {
                // SAFETY: both blocks have this page; both machines are stopped.
                var x = new ReadOnlySpan<byte>(a.Pointer + (page << RamPage.Shift), RamPage.Size);
                var y = new ReadOnlySpan<byte>(b.Pointer + (page << RamPage.Shift), RamPage.Size);
                if (!x.SequenceEqual(y))
                    return $"{a.Name} page {page}";
            }
        }

        return null;
    }

    public void StopVcpus()
    {
        _run.Reset();
        _barrier.EnterWriteLock(); // every vCPU has left its loop
        _barrier.ExitWriteLock();
    }

    public void Dispose()
    {
        _end = true;
        _run.Set();
        foreach (Thread vcpu in _vcpus)
            Assert.True(vcpu.Join(TimeSpan.FromSeconds(60)), "a vCPU does not end");
        Ram.Dispose();
    }
}
