using System.Collections.Concurrent;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>A device with plain memory as regions, that records what it is told and fails where it is told to.</summary>
internal sealed class TestDevice : IVfioUserDevice
{
    private readonly ConcurrentDictionary<int, byte[]> _regions = new();

    public DeviceDescription Description { get; init; } = new()
    {
        Regions = new Dictionary<int, DeviceRegion>
        {
            [PciRegion.Bar0] = new(0x4000),
            [2] = new(0x400000),
            [PciRegion.Config] = new(4096),
        },
        Irqs = new Dictionary<int, int> { [PciIrq.Intx] = 1, [PciIrq.Msix] = 64 },
        Migration = MigrationSupport.StopCopy | MigrationSupport.PreCopy | MigrationSupport.P2P,
    };

    /// <summary>The session's host; replaced at every connection.</summary>
    public IDeviceHost? Host { get; private set; }

    public BlockingCollection<IDeviceHost> Connections { get; } = [];

    public BlockingCollection<bool> Disconnections { get; } = [];

    public ConcurrentQueue<(DeviceMigrationState From, DeviceMigrationState To)> Transitions { get; } = new();

    public Func<DeviceMigrationState, DeviceMigrationState, Errno>? OnTransition { get; set; }

    public Func<int, ulong, int, Errno>? OnRead { get; set; }

    public Func<int, ulong, byte[], Errno>? OnWrite { get; set; }

    public MemoryStream Saved { get; set; } = new();

    public MemoryStream Loaded { get; } = new();

    public int Resets { get; private set; }

    public ulong StopCopySize { get; set; } = 4711;

    public byte[] Region(int index) => _regions.TryGetValue(index, out byte[]? region) ? region : _regions.GetOrAdd(index, i => new byte[Description.Regions[i].Size]);

    public void OnConnected(IDeviceHost host)
    {
        Host = host;
        Connections.Add(host);
    }

    public void OnDisconnected()
    {
        Host = null;
        Disconnections.Add(true);
    }

    public Errno ReadRegion(int region, ulong offset, Span<byte> destination)
    {
        if (OnRead?.Invoke(region, offset, destination.Length) is { } error and not Errno.None)
            return error;
        Region(region).AsSpan((int)offset, destination.Length).CopyTo(destination);
        return Errno.None;
    }

    public Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data)
    {
        if (OnWrite?.Invoke(region, offset, data.ToArray()) is { } error and not Errno.None)
            return error;
        data.CopyTo(Region(region).AsSpan((int)offset));
        return Errno.None;
    }

    public void Reset() => Resets++;

    public Errno Transition(DeviceMigrationState from, DeviceMigrationState to)
    {
        Transitions.Enqueue((from, to));
        return OnTransition?.Invoke(from, to) ?? Errno.None;
    }

    public int ReadMigrationData(Span<byte> destination) => Saved.Read(destination);

    public Errno WriteMigrationData(ReadOnlySpan<byte> data)
    {
        Loaded.Write(data);
        return Errno.None;
    }
}
