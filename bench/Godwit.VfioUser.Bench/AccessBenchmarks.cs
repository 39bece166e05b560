using BenchmarkDotNet.Attributes;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>The device's own DMA: lookup, copy and log, beside a plain copy of the same bytes.</summary>
public class AccessBenchmarks
{
    private const ulong RamSize = 256 << 20;
    private const int Pages = (int)(RamSize / 4096);
    private readonly byte[] _data = new byte[4096];
    private readonly byte[] _copy = new byte[4096];
    private Pair _pair = null!;
    private MemFd _ram = null!;
    private uint _next;

    [Params(false, true)]
    public bool Logged { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _pair = new Pair();
        _ram = MemFd.Create("ram", RamSize);
        // Page by page, as behind a vIOMMU.
        for (uint i = 0; i < Pages; i++)
            _pair.Client.DmaMapQueued(new DmaRange(new DmaAddress((ulong)i << 12), 4096), DmaAccess.Read | DmaAccess.Write, _ram, (ulong)i << 12);
        _pair.Client.DmaFlush();
        for (uint i = 0; i < Pages; i++)
            _pair.Host.Write(NextPage(), _data); // or the first round would measure page faults
        if (Logged)
            _pair.Client.StartDmaLogging(4096, []);
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _pair.Dispose();
        _ram.Dispose();
    }

    [Benchmark(Baseline = true)]
    public void Copy4K() => _data.CopyTo(_copy, 0);

    [Benchmark]
    public bool Write4K() => _pair.Host.Write(NextPage(), _data);

    [Benchmark]
    public bool Write16() => _pair.Host.Write(NextPage(), _data.AsSpan(0, 16));

    [Benchmark]
    public bool Read4K() => _pair.Host.Read(NextPage(), _copy);

    /// <summary>Addresses all over, so that the table and not its caches are measured.</summary>
    private DmaAddress NextPage() => new((ulong)((_next += 40503) % Pages) << 12);
}
