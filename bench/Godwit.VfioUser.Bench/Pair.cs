using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>A client connected to a server with a device that is plain memory.</summary>
public sealed class Pair : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("gwvb").FullName;
    private readonly CancellationTokenSource _stop = new();
    private readonly Thread _thread;
    private readonly MemoryDevice _device = new();

    public Pair()
    {
        string path = Path.Combine(_directory, "s");
        using var listening = new ManualResetEventSlim();
        _thread = new Thread(() => VfioUserServer.Run(_device, new VfioUserServerOptions { SocketPath = path, Log = _ => listening.Set() }, _stop.Token));
        _thread.Start();
        listening.Wait();
        Client = VfioUserClient.Connect(path, new VfioUserClientOptions(), _device);
        Client.Reset(); // answered after the device was connected
    }

    public VfioUserClient Client { get; }

    public IDeviceHost Host => _device.Host!;

    public void Dispose()
    {
        Client.Dispose();
        _stop.Cancel();
        _thread.Join();
        _stop.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    internal sealed class MemoryDevice : IVfioUserDevice, IDmaMessageHandler
    {
        private readonly byte[] _memory = new byte[65536];

        public DeviceDescription Description { get; } = new()
        {
            Regions = new Dictionary<int, DeviceRegion> { [PciRegion.Bar0] = new(65536, Doorbells: [new DoorbellRange(ProcessRun.Doorbell, 16)]) },
            Irqs = new Dictionary<int, int>(),
        };

        public IDeviceHost? Host { get; private set; }

        public ulong StopCopySize => 0;

        public void OnConnected(IDeviceHost host) => Host = host;

        public void OnDisconnected()
        {
        }

        public Errno ReadRegion(int region, ulong offset, Span<byte> destination)
        {
            _memory.AsSpan((int)offset, destination.Length).CopyTo(destination);
            return Errno.None;
        }

        public Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data)
        {
            data.CopyTo(_memory.AsSpan((int)offset));
            return Errno.None;
        }

        public void Reset()
        {
        }

        public Errno Transition(DeviceMigrationState from, DeviceMigrationState to) => Errno.ENOTSUP;

        public int ReadMigrationData(Span<byte> destination) => 0;

        public Errno WriteMigrationData(ReadOnlySpan<byte> data) => Errno.ENOTSUP;

        public Errno Read(DmaAddress address, Span<byte> destination)
        {
            destination.Clear();
            return Errno.None;
        }

        public Errno Write(DmaAddress address, ReadOnlySpan<byte> data) => Errno.None;
    }
}
