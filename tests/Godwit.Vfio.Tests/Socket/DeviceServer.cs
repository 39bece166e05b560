using System.Runtime.ExceptionServices;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>Serves a device on a socket of its own in a directory of its own.</summary>
internal sealed class DeviceServer : IDisposable
{
    /// <summary>Ends a run that has failed; nothing is meant to last.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly CancellationTokenSource _stop = new();
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("gwvfio");
    private readonly Thread _thread;
    private ExceptionDispatchInfo? _failure;

    public DeviceServer(IVfioUserDevice device)
    {
        Path = System.IO.Path.Combine(_directory.FullName, "s");
        using var listening = new ManualResetEventSlim();
        var options = new VfioUserServerOptions
        {
            SocketPath = Path,
            Log = line =>
            {
                if (line.StartsWith("listening", StringComparison.Ordinal))
                    listening.Set();
            },
        };
        _thread = new Thread(() =>
        {
            try
            {
                VfioUserServer.Run(device, options, _stop.Token);
            }
            catch (Exception e)
            {
                _failure = ExceptionDispatchInfo.Capture(e);
                listening.Set();
            }
        });
        _thread.Start();
        Assert.True(listening.Wait(Patience));
        _failure?.Throw();
    }

    public string Path { get; }

    /// <summary>The device's process ends.</summary>
    public void Stop()
    {
        _stop.Cancel();
        Assert.True(_thread.Join(Patience), "the server does not stop");
        _failure?.Throw();
    }

    public void Dispose()
    {
        Stop();
        _directory.Delete(recursive: true);
    }
}
