using BenchmarkDotNet.Attributes;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>Mapping and unmapping one page of a RAM file, as a vIOMMU guest makes it happen, with few and with many others live.</summary>
public class DmaBenchmarks
{
    private const int Batch = 256;
    private const ulong RamSize = 64 << 20;
    private const ulong Base = 1UL << 40;
    private const DmaAccess ReadWrite = DmaAccess.Read | DmaAccess.Write;
    private Pair _pair = null!;
    private MemFd _ram = null!;

    [Params(0, 100_000)]
    public int Live { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _pair = new Pair();
        _ram = MemFd.Create("ram", RamSize);
        for (int i = 0; i < Live; i++)
            _pair.Client.DmaMapQueued(Range((ulong)i * 2), ReadWrite, _ram, (ulong)i * 4096 % RamSize);
        _pair.Client.DmaFlush();
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _pair.Dispose();
        _ram.Dispose();
    }

    /// <summary>Each map and each unmap waited for.</summary>
    [Benchmark]
    public void MapUnmap()
    {
        _pair.Client.DmaMap(Range(4001), ReadWrite, _ram, 0);
        _pair.Client.DmaUnmap(Range(4001));
    }

    /// <summary>256 maps and 256 unmaps sent, the answers awaited once each.</summary>
    [Benchmark(OperationsPerInvoke = Batch)]
    public void MapUnmapQueued()
    {
        for (ulong i = 0; i < Batch; i++)
            _pair.Client.DmaMapQueued(Range(4001 + i * 2), ReadWrite, _ram, i * 4096);
        _pair.Client.DmaFlush();
        for (ulong i = 0; i < Batch; i++)
            _pair.Client.DmaUnmapQueued(Range(4001 + i * 2));
        _pair.Client.DmaFlush();
    }

    private static DmaRange Range(ulong page) => new(new DmaAddress(Base + page * 4096), 4096);
}
