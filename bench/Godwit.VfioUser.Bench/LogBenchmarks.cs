using BenchmarkDotNet.Attributes;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>The client's reading of the log: 1 GiB of addresses in one report, with nothing, little and much written since the last.</summary>
public class LogBenchmarks
{
    private const ulong RamSize = 1 << 30;
    private const int Pages = (int)(RamSize / 4096);
    private readonly ulong[] _bitmap = new ulong[Pages / 64];
    private Pair _pair = null!;
    private MemFd _ram = null!;

    /// <summary>Pages written before each report, evenly spread.</summary>
    [Params(0, 1024, 65536)]
    public int Written { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _pair = new Pair();
        _ram = MemFd.Create("ram", RamSize);
        _pair.Client.DmaMap(new DmaRange(new DmaAddress(0), RamSize), DmaAccess.Read | DmaAccess.Write, _ram, 0);
        _pair.Client.StartDmaLogging(4096, []);
        WriteOnly(); // page faults
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _pair.Dispose();
        _ram.Dispose();
    }

    /// <summary>The writes alone, to be taken off the other.</summary>
    [Benchmark(Baseline = true)]
    public void WriteOnly()
    {
        byte one = 1;
        for (int i = 0; i < Written; i++)
            _pair.Host.Write(new DmaAddress((ulong)i * (ulong)(Pages / Written) * 4096), new ReadOnlySpan<byte>(in one));
    }

    [Benchmark]
    public void WriteAndReport()
    {
        WriteOnly();
        _pair.Client.ReportDmaLog(new DmaRange(new DmaAddress(0), RamSize), 4096, _bitmap);
    }
}
