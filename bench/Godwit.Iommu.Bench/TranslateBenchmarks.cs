using BenchmarkDotNet.Attributes;
using Godwit.Memory;

namespace Godwit.Iommu.Bench;

/// <summary>Cost of one translation of an emulated device's access. Nothing may be allocated.</summary>
public class TranslateBenchmarks
{
    private const int Translations = 1024;
    private readonly ulong[] _cached = new ulong[Translations];
    private readonly ulong[] _walked = new ulong[Translations];
    private BenchGuest _guest = null!;

    /// <summary>The stage.</summary>
    [Params(BenchTables.SecondStage, BenchTables.FirstStage)]
    public BenchTables Tables { get; set; }

    /// <summary>Levels of the table; a first stage has four at least.</summary>
    [Params(3, 4, 5)]
    public int Levels { get; set; }

    /// <summary>Maps 256 pages that fit the cache, and 64 Ki pages (in random order) that do not.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _guest = new BenchGuest(Tables, Tables == BenchTables.FirstStage ? Math.Max(Levels, 4) : Levels);
        _guest.Fill(_guest.Table, 0x1_0000);
        var random = new Random(1);
        for (int index = 0; index < Translations; index++)
        {
            _cached[index] = (ulong)random.Next(256) << 12;
            _walked[index] = (ulong)random.Next(0x1_0000) << 12;
        }
    }

    /// <summary>Frees the guest's RAM.</summary>
    [GlobalCleanup]
    public void Cleanup() => _guest.Dispose();

    /// <summary>Hits in the IOTLB.</summary>
    [Benchmark(OperationsPerInvoke = Translations, Baseline = true)]
    public ulong Cached() => Translate(_cached);

    /// <summary>Walks, forced by invalidating the cache each time round (whose cost is in it, divided by 1024).</summary>
    [Benchmark(OperationsPerInvoke = Translations)]
    public ulong Walked()
    {
        _guest.Invalidate(0, 16);
        return Translate(_walked);
    }

    /// <summary>A whole 8-byte read by a device through its space, the translation cached.</summary>
    [Benchmark(OperationsPerInvoke = Translations)]
    public ulong CachedRead()
    {
        ulong sum = 0;
        foreach (ulong iova in _cached)
        {
            _guest.Space.ReadUInt64(new BusAddress(iova), out ulong value, TransactionAttributes.Vmm);
            sum += value;
        }

        return sum;
    }

    private ulong Translate(ulong[] iovas)
    {
        ulong sum = 0;
        foreach (ulong iova in iovas)
            sum += _guest.Region.Translate(new Iova(iova), AccessRights.Read, TransactionAttributes.Vmm).Output.Value;
        return sum;
    }
}
