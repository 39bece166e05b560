using BenchmarkDotNet.Attributes;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>One register access over the protocol, beside the least that a socket costs: a message there and one back between two threads.</summary>
public class RegionBenchmarks
{
    private readonly byte[] _word = new byte[4];
    private readonly byte[] _request = new byte[32];
    private readonly byte[] _reply = new byte[36];
    private Pair _pair = null!;
    private SocketHandle _near = null!;
    private SocketHandle _far = null!;
    private Thread _echo = null!;

    [GlobalSetup]
    public void Setup()
    {
        _pair = new Pair();
        (_near, _far) = SocketHandle.CreatePair();
        _echo = new Thread(Echo);
        _echo.Start();
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _near.Shutdown();
        _echo.Join();
        _near.Dispose();
        _far.Dispose();
        _pair.Dispose();
    }

    /// <summary>The same bytes over a bare socket pair: 32 there, 36 back.</summary>
    [Benchmark(Baseline = true)]
    public int SocketEcho()
    {
        _near.Send(_request);
        return _near.Receive(_reply);
    }

    [Benchmark]
    public void Read4() => _pair.Client.ReadRegion(PciRegion.Bar0, 8, _word);

    [Benchmark]
    public void Write4() => _pair.Client.WriteRegion(PciRegion.Bar0, 8, _word, posted: false);

    /// <summary>64 posted writes and one read that waits for all of them.</summary>
    [Benchmark(OperationsPerInvoke = 64)]
    public void Write4Posted()
    {
        for (int i = 0; i < 64; i++)
            _pair.Client.WriteRegion(PciRegion.Bar0, 8, _word, posted: true);
        _pair.Client.ReadRegion(PciRegion.Bar0, 8, _word);
    }

    private void Echo()
    {
        byte[] request = new byte[32];
        byte[] reply = new byte[36];
        while (_far.Receive(request) > 0)
            _far.Send(reply);
    }
}
