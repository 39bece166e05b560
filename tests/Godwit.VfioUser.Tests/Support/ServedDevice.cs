namespace Godwit.VfioUser.Tests;

/// <summary>Any device behind a server on a socket of its own. Owns the device.</summary>
internal sealed class ServedDevice : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("gwvd").FullName;
    private readonly CancellationTokenSource _stop = new();
    private readonly Background _server;
    private readonly IDisposable _device;

    public ServedDevice(IVfioUserDevice device, DmaLogLimits? logLimits = null)
    {
        _device = (IDisposable)device;
        Path = System.IO.Path.Combine(_directory, "s");
        using var listening = new ManualResetEventSlim();
        var options = new VfioUserServerOptions
        {
            SocketPath = Path,
            OfferWriteMultiple = true,
            LogLimits = logLimits ?? new DmaLogLimits(),
            DmaReplyTimeout = TestServer.Patience,
            HandshakeTimeout = TestServer.Patience,
            RefusalTimeout = TestServer.Patience,
            DetachTimeout = TestServer.Patience,
            Log = _ => listening.Set(),
        };
        _server = Background.Run(() => VfioUserServer.Run(device, options, _stop.Token));
        Assert.True(listening.Wait(TestServer.Patience));
    }

    public string Path { get; }

    public void Dispose()
    {
        _stop.Cancel();
        _server.Join();
        _device.Dispose();
        _stop.Dispose();
        Directory.Delete(_directory, recursive: true);
    }
}
