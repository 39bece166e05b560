using System.Collections.Concurrent;
using Godwit.Devices;
using Godwit.VfioUser;

namespace Godwit.Machine.Tests;

/// <summary>A real NVMe controller on a real image, served over a real socket, on threads of this process.</summary>
internal sealed class NvmeServer : IDisposable
{
    private readonly CancellationTokenSource _stop = new();
    private readonly NvmeController _controller;
    private readonly Thread _thread;
    private readonly ConcurrentQueue<string> _log = new();
    private Exception? _failure;

    public NvmeServer(string image, ulong size = 64 << 20, int blockSize = 4096)
    {
        Socket = Path.Combine(Path.GetTempPath(), $"godwit-{Guid.NewGuid():N}.sock");
        _controller = NvmeController.Create(
            new NvmeOptions { ImagePath = image, Size = size, BlockSize = blockSize, Serial = "GODWIT-TEST" }, _log.Enqueue);
        using var listening = new ManualResetEventSlim();
        var options = new VfioUserServerOptions
        {
            SocketPath = Socket,
            Log = line =>
            {
                _log.Enqueue(line);
                if (line.StartsWith("listening", StringComparison.Ordinal))
                    listening.Set();
            },
        };
        _thread = new Thread(() =>
        {
            try
            {
                VfioUserServer.Run(_controller, options, _stop.Token);
            }
            catch (Exception e)
            {
                _failure = e;
                listening.Set();
            }
        })
        { IsBackground = true, Name = "nvme-server" };
        _thread.Start();
        Assert.True(listening.Wait(Deadline.Generous), "the server does not listen");
        Assert.Null(_failure);
    }

    public string Socket { get; }

    public string Log => string.Join('\n', _log);

    public void Dispose()
    {
        _stop.Cancel();
        Assert.True(_thread.Join(Deadline.Generous), "the server does not end");
        _controller.Dispose();
        _stop.Dispose();
        Assert.Null(_failure);
    }
}
