using System.Collections.Concurrent;
using System.Runtime.ExceptionServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>A live server on a socket of its own in a directory of its own.</summary>
internal sealed class TestServer : IDisposable
{
    /// <summary>No wait in these tests is meant to last; this only ends a run that has failed.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly CancellationTokenSource _stop = new();
    private readonly Thread _thread;
    private readonly string _directory;
    private ExceptionDispatchInfo? _failure;

    public TestServer(TestDevice? device = null, Func<VfioUserServerOptions, VfioUserServerOptions>? configure = null)
    {
        Device = device ?? new TestDevice();
        _directory = Directory.CreateTempSubdirectory("gwvu").FullName;
        Path = System.IO.Path.Combine(_directory, "s");
        using var listening = new ManualResetEventSlim();
        var options = new VfioUserServerOptions
        {
            SocketPath = Path,
            DmaReplyTimeout = Patience,
            HandshakeTimeout = Patience,
            RefusalTimeout = Patience,
            SendTimeout = Patience,
            DetachTimeout = Patience,
            Log = line =>
            {
                Log.Enqueue(line);
                LogLines.Add(line);
                if (line.StartsWith("listening", StringComparison.Ordinal))
                    listening.Set();
            },
        };
        options = configure?.Invoke(options) ?? options;
        _thread = new Thread(() =>
        {
            try
            {
                VfioUserServer.Run(Device, options, _stop.Token);
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

    public TestDevice Device { get; }

    public string Path { get; }

    public ConcurrentQueue<string> Log { get; } = new();

    public BlockingCollection<string> LogLines { get; } = [];

    public VfioUserClient Connect(IDmaMessageHandler? dma = null, VfioUserClientOptions? options = null) =>
        VfioUserClient.Connect(Path, options ?? new VfioUserClientOptions { ReplyTimeout = Patience }, dma ?? new NoDma());

    /// <summary>Connects and returns what the device was given.</summary>
    public VfioUserClient Connect(out IDeviceHost host, IDmaMessageHandler? dma = null)
    {
        VfioUserClient client = Connect(dma);
        host = Take(Device.Connections);
        return client;
    }

    public static T Take<T>(BlockingCollection<T> collection)
    {
        Assert.True(collection.TryTake(out T? item, Patience), $"nothing came within {Patience}");
        return item;
    }

    public void Stop()
    {
        _stop.Cancel();
        Assert.True(_thread.Join(Patience), "the server did not stop");
        _failure?.Throw();
    }

    public void Dispose()
    {
        Stop();
        Directory.Delete(_directory, recursive: true);
        _stop.Dispose();
    }
}

/// <summary>A client whose memory is all mapped.</summary>
internal sealed class NoDma : IDmaMessageHandler
{
    public Errno Read(DmaAddress address, Span<byte> destination) => Errno.ENODEV;

    public Errno Write(DmaAddress address, ReadOnlySpan<byte> data) => Errno.ENODEV;
}

/// <summary>Guest memory that is reached by messages: an array at an address.</summary>
internal sealed class ArrayDma(ulong start, int size) : IDmaMessageHandler
{
    public byte[] Memory { get; } = new byte[size];

    public Errno Read(DmaAddress address, Span<byte> destination)
    {
        lock (Memory)
        {
            if (address.Value < start || address.Value - start + (ulong)destination.Length > (ulong)Memory.Length)
                return Errno.ENODEV;
            Memory.AsSpan((int)(address.Value - start), destination.Length).CopyTo(destination);
            return Errno.None;
        }
    }

    public Errno Write(DmaAddress address, ReadOnlySpan<byte> data)
    {
        lock (Memory)
        {
            if (address.Value < start || address.Value - start + (ulong)data.Length > (ulong)Memory.Length)
                return Errno.ENODEV;
            data.CopyTo(Memory.AsSpan((int)(address.Value - start)));
            return Errno.None;
        }
    }
}
