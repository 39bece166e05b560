using System.Buffers.Binary;
using System.Collections.Concurrent;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>
/// A small real device, served by the real host: registers in BAR 0 that make it write memory by DMA and raise interrupts, MSI-X in the same
/// BAR, state that migrates. The DMA log is the host's.
/// </summary>
internal sealed class DmaTestDevice : IVfioUserDevice
{
    public const int Vectors = 4;
    public const ulong AddressRegister = 0x00;
    public const ulong ValueRegister = 0x08;

    /// <summary>Writing n here writes the value to n consecutive pages at the address; reading tells how many were written.</summary>
    public const ulong DoorbellRegister = 0x10;

    /// <summary>Writing n here raises vector n.</summary>
    public const ulong InterruptRegister = 0x18;

    /// <summary>Plain memory, 8 bytes, part of the state.</summary>
    public const ulong ScratchRegister = 0x20;
    public const uint TableOffset = 0x2000;
    public const uint PendingOffset = 0x3000;

    private readonly byte[] _config = new byte[256];
    private readonly byte[] _registers = new byte[0x28];
    private readonly byte[] _incoming = new byte[0x28];
    private int _saved, _loaded;
    private IDeviceHost? _host;

    public DmaTestDevice()
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_config, 0x1234);
        BinaryPrimitives.WriteUInt16LittleEndian(_config.AsSpan(2), 0x5678);
        _config[0x06] = 0x10; // capabilities list
        _config[0x08] = 7;
        (_config[0x09], _config[0x0A], _config[0x0B]) = (0x02, 0x08, 0x01);
        _config[0x10] = 0x04; // 64-bit memory
        _config[0x34] = 0x50;
        (_config[0x50], _config[0x51]) = (0x11, 0x60);
        BinaryPrimitives.WriteUInt16LittleEndian(_config.AsSpan(0x52), Vectors - 1);
        BinaryPrimitives.WriteUInt32LittleEndian(_config.AsSpan(0x54), TableOffset);
        BinaryPrimitives.WriteUInt32LittleEndian(_config.AsSpan(0x58), PendingOffset);
        (_config[0x60], _config[0x61]) = (0x10, 0x00); // PCI Express, end of list
    }

    public DeviceDescription Description { get; init; } = new()
    {
        Regions = new Dictionary<int, DeviceRegion> { [PciRegion.Bar0] = new(0x4000), [PciRegion.Config] = new(256) },
        Irqs = new Dictionary<int, int> { [PciIrq.Msix] = Vectors },
        Migration = MigrationSupport.StopCopy | MigrationSupport.PreCopy,
    };

    /// <summary>What happened to it.</summary>
    public ConcurrentQueue<string> Events { get; } = new();

    /// <summary>Configuration as the device has it.</summary>
    public byte[] Config => _config;

    /// <summary>Refuses an arc of the migration state machine.</summary>
    public Func<DeviceMigrationState, DeviceMigrationState, Errno>? OnTransition { get; set; }

    public ulong StopCopySize => (ulong)_registers.Length;

    public void OnConnected(IDeviceHost host) => _host = host;

    public void OnDisconnected() => _host = null;

    public Errno ReadRegion(int region, ulong offset, Span<byte> destination)
    {
        byte[] source = region == PciRegion.Config ? _config : _registers;
        if (offset + (ulong)destination.Length > (ulong)source.Length)
            return Errno.EIO;
        source.AsSpan((int)offset, destination.Length).CopyTo(destination);
        return Errno.None;
    }

    public Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data)
    {
        byte[] target = region == PciRegion.Config ? _config : _registers;
        if (offset + (ulong)data.Length > (ulong)target.Length)
            return Errno.EIO;
        if (region == PciRegion.Bar0 && offset == InterruptRegister)
        {
            _host!.Trigger(PciIrq.Msix, data[0]);
            return Errno.None;
        }

        data.CopyTo(target.AsSpan((int)offset));
        if (region == PciRegion.Config)
            Events.Enqueue($"config 0x{offset:x} = 0x{BinaryPrimitives.ReadUInt16LittleEndian(data):x}");
        else if (offset == DoorbellRegister)
            WriteMemory(data[0]);
        return Errno.None;
    }

    public void Reset()
    {
        _registers.AsSpan().Clear();
        Events.Enqueue("reset");
    }

    public Errno Transition(DeviceMigrationState from, DeviceMigrationState to)
    {
        Events.Enqueue($"{from} {to}");
        if (OnTransition?.Invoke(from, to) is { } errno and not Errno.None)
            return errno;
        (_saved, int loaded) = (0, _loaded);
        if (from == DeviceMigrationState.Resuming && to == DeviceMigrationState.Stop)
        {
            if (loaded != _incoming.Length)
                return Errno.EINVAL; // the device judges its data
            _incoming.CopyTo(_registers.AsSpan());
        }

        _loaded = 0;
        return Errno.None;
    }

    public int ReadMigrationData(Span<byte> destination)
    {
        int count = Math.Min(destination.Length, _registers.Length - _saved);
        _registers.AsSpan(_saved, count).CopyTo(destination);
        _saved += count;
        return count;
    }

    public Errno WriteMigrationData(ReadOnlySpan<byte> data)
    {
        if (data.Length > _incoming.Length - _loaded)
            return Errno.EINVAL;
        data.CopyTo(_incoming.AsSpan(_loaded));
        _loaded += data.Length;
        return Errno.None;
    }

    private void WriteMemory(int pages)
    {
        ulong address = BinaryPrimitives.ReadUInt64LittleEndian(_registers.AsSpan((int)AddressRegister));
        ReadOnlySpan<byte> value = _registers.AsSpan((int)ValueRegister, 8);
        byte done = 0;
        while (done < pages && _host!.Write(new DmaAddress(address + (ulong)done * 4096), value))
            done++;
        _registers[DoorbellRegister] = done;
    }
}
