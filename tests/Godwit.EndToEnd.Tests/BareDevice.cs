using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.EndToEnd.Tests;

/// <summary>The least device that a machine can plug, served from the test: one BAR, no interrupts, and as little migration as is asked for.</summary>
internal sealed class BareDevice : IVfioUserDevice, IAsyncDisposable
{
    private readonly byte[] _config = new byte[256];
    private readonly byte[] _bar = new byte[4096];
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _serving;

    public BareDevice(string socket, MigrationSupport migration, bool logging)
    {
        // Vendor, device, class "other" (PCI Local Bus 3.0, 6.1).
        (_config[0], _config[1], _config[2], _config[3], _config[11]) = (0x34, 0x12, 0x01, 0x00, 0xff);
        Description = new DeviceDescription
        {
            Regions = new Dictionary<int, DeviceRegion>
            {
                [PciRegion.Bar0] = new((ulong)_bar.Length),
                [PciRegion.Config] = new((ulong)_config.Length),
            },
            Irqs = new Dictionary<int, int>(),
            Migration = migration,
            DmaLogging = logging,
        };
        var listening = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var options = new VfioUserServerOptions
        {
            SocketPath = socket,
            Log = line =>
            {
                if (line.StartsWith("listening", StringComparison.Ordinal))
                {
                    listening.TrySetResult();
                }
            },
        };
        _serving = Task.Factory.StartNew(() => VfioUserServer.Run(this, options, _stop.Token), TaskCreationOptions.LongRunning);
        Listening = listening.Task;
    }

    /// <summary>Completes when it can be connected to.</summary>
    public Task Listening { get; }

    public DeviceDescription Description { get; }

    public ulong StopCopySize => 0;

    public void OnConnected(IDeviceHost host)
    {
        // It does no DMA.
    }

    public void OnDisconnected()
    {
        // Nor keeps anything of its client.
    }

    public Errno ReadRegion(int region, ulong offset, Span<byte> destination)
    {
        Of(region).AsSpan((int)offset, destination.Length).CopyTo(destination);
        return Errno.None;
    }

    public Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data)
    {
        data.CopyTo(Of(region).AsSpan((int)offset));
        return Errno.None;
    }

    public void Reset() => Array.Clear(_bar);

    public Errno Transition(DeviceMigrationState from, DeviceMigrationState to) => Errno.None;

    public int ReadMigrationData(Span<byte> destination) => 0;

    public Errno WriteMigrationData(ReadOnlySpan<byte> data) => Errno.None;

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _serving;
        _stop.Dispose();
    }

    private byte[] Of(int region) => region == PciRegion.Config ? _config : _bar;
}
