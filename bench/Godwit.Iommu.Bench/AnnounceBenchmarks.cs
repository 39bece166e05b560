using BenchmarkDotNet.Attributes;
using Godwit.Memory;

namespace Godwit.Iommu.Bench;

/// <summary>
/// What a strict guest costs: write a leaf, invalidate it, wait; later clear it, invalidate, wait. From the register write to the events
/// of a listener that only counts. One operation is one event, so events a second are 10^9 / ns.
/// </summary>
public class AnnounceBenchmarks
{
    private const int Buffers = 512;
    private readonly ulong[] _entries = new ulong[Buffers];
    private readonly ulong[] _iovas = new ulong[Buffers];
    private readonly CountingListener _counter = new();
    private BenchGuest _guest = null!;

    /// <summary>Mappings that stay, while others come and go.</summary>
    [Params(0, 10_000, 1_000_000)]
    public int Live { get; set; }

    /// <summary>Pages of one buffer: 1, or 32 by one invalidation.</summary>
    [Params(0, 5)]
    public int Mask { get; set; }

    /// <summary>Maps what stays in the lower part and picks the buffers' places in the upper.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _guest = new BenchGuest();
        _guest.Fill(_guest.Table, Live);
        for (int index = 0; index < Buffers; index++)
        {
            // Linux gives IOVAs from the top of 32 bits downwards.
            _iovas[index] = 0x1_FFFF_F000 + 0x1000 - ((ulong)(index + 1) << (12 + Mask));
            _entries[index] = _guest.EntryOf(_iovas[index]);
        }

        _guest.Region.AddListener(_counter, BusRange.All);
        if (_counter.Events != Live)
            throw new InvalidOperationException($"{_counter.Events} mappings announced, not {Live}");
    }

    /// <summary>Frees the guest's RAM.</summary>
    [GlobalCleanup]
    public void Cleanup() => _guest.Dispose();

    /// <summary>512 buffers mapped and unmapped, each by its own run of the queue.</summary>
    [Benchmark(OperationsPerInvoke = Buffers * 2)]
    public long MapAndUnmap()
    {
        long before = _counter.Events;
        for (int present = 3; present >= 0; present -= 3)
        {
            for (int index = 0; index < Buffers; index++)
            {
                for (ulong page = 0; page < 1UL << Mask; page++)
                    _guest.Write(_entries[index] + (page * 8), present == 0 ? 0 : 0x20_0000 | 3u);
                _guest.Invalidate(_iovas[index], Mask);
            }
        }

        long expected = Buffers * ((1 << Mask) + 1); // a map each page, one unmap each buffer
        if (_counter.Events - before != expected)
            throw new InvalidOperationException($"{_counter.Events - before} events, not {expected}");
        return _counter.Events;
    }
}
