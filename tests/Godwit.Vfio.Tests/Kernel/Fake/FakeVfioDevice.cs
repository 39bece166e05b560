using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>What a fake device is.</summary>
internal sealed record FakeDeviceTraits
{
    public bool FunctionReset { get; init; } = true;

    /// <summary>Functions that a bus reset would take along besides this one; null: the bus cannot be reset.</summary>
    public string[]? BusNeighbours { get; init; }

    /// <summary>Interrupt pin, 1 to 4, or none.</summary>
    public byte Pin { get; init; }

    /// <summary>It signals whenever its pin is driven, as servers of vfio-user do that know no masking; the kernel's do not.</summary>
    public bool NeverMasks { get; init; }

    public int MsiVectors { get; init; } = 1;

    public int MsixVectors { get; init; } = 2;

    /// <summary>Vectors that the host has to give.</summary>
    public int HostVectors { get; init; } = 64;

    public bool Express { get; init; } = true;

    public MigrationSupport Migration { get; init; }

    public bool LogsDma { get; init; }

    public bool MigDataSize { get; init; } = true;

    public bool PrecopyInfo { get; init; } = true;

    /// <summary>Whether the host's IOMMU has dirty bits, behind iommufd.</summary>
    public bool HostDirtyTracking { get; init; }

    /// <summary>Bus Master Enable cannot be cleared in it.</summary>
    public bool KeepsBusMaster { get; init; }

    /// <summary>Parts of BAR 0 that can be mapped; null: no sparse area list.</summary>
    public (ulong Offset, ulong Size)[]? Sparse { get; init; }
}

/// <summary>
/// A PCI function of the host bound to a VFIO driver: 16 KiB of BAR 0, MSI-X in its second page, an MSI and an MSI-X capability, migration and
/// a DMA log if wanted. It does real DMA through whatever address space it is in.
/// </summary>
internal sealed class FakeVfioDevice : IDisposable
{
    public const ulong Bar0Bytes = 0x4000;
    public const int MsiAt = 0x50, MsixAt = 0x70;

    private readonly Dictionary<(int Index, int Vector), EventFd> _triggers = [];
    private readonly byte[] _registers = new byte[Bar0Bytes];
    private bool _pinHigh, _pinMasked;
    private MemFd? _file;
    private MemoryMapping? _memory; // of the file, once somebody maps BAR 0

    public FakeVfioDevice(FakeKernel kernel, string address, FakeDeviceTraits? traits = null)
    {
        Kernel = kernel;
        Address = address;
        Traits = traits ?? new FakeDeviceTraits();
        Migration = new FakeMigration(this);
        Log = new FakeDmaLog();
        BuildConfig();
    }

    public FakeKernel Kernel { get; }

    public string Address { get; }

    public FakeDeviceTraits Traits { get; }

    public byte[] Config { get; } = new byte[256];

    public unsafe Span<byte> Bar0 => _memory is { } memory ? new Span<byte>(memory.Address, (int)Bar0Bytes) : _registers;

    /// <summary>The address space it is in, or null.</summary>
    public FakeAddressSpace? Space { get; set; }

    public FakeMigration Migration { get; }

    public FakeDmaLog Log { get; }

    public DeviceFile? Open { get; set; }

    public int Resets { get; private set; }

    /// <summary>Accesses to its memory fail, as while it is disabled or pulled.</summary>
    public bool MemoryGone { get; set; }

    /// <summary>The index (INTx, MSI or MSI-X) that is enabled; only one can be.</summary>
    public int? EnabledIrq { get; private set; }

    public bool BusMaster => (Config[4] & 4) != 0;

    public IReadOnlyCollection<(int Index, int Vector)> Triggers => _triggers.Keys;

    public DeviceFile OpenThrough(GroupFile group)
    {
        Space = group.Container!.Space;
        return Open = new DeviceFile(this, group);
    }

    /// <summary>DMA: a write of at most a page; false on an IOMMU fault.</summary>
    public bool Write(ulong iova, ReadOnlySpan<byte> data)
    {
        lock (Kernel.Gate)
        {
            if (!BusMaster || Space is null || !Migration.DoesDma || !Space.DeviceWrite(iova, data))
                return false;
            Log.Wrote(iova, data.Length);
            return true;
        }
    }

    /// <summary>DMA: a read of at most a page; false on an IOMMU fault.</summary>
    public bool Read(ulong iova, Span<byte> data)
    {
        lock (Kernel.Gate)
            return BusMaster && Space is not null && Space.DeviceRead(iova, data);
    }

    /// <summary>Raises an interrupt; false when nobody listens.</summary>
    public bool Raise(int index, int vector)
    {
        lock (Kernel.Gate)
            return _triggers.TryGetValue((index, vector), out EventFd? fd) && fd.Signal();
    }

    /// <summary>Drives its pin. The kernel masks it when it signals (drivers/vfio/pci/vfio_pci_intrs.c, vfio_intx_handler).</summary>
    public void SetPin(bool high)
    {
        lock (Kernel.Gate)
        {
            _pinHigh = high;
            SignalPin();
        }
    }

    /// <summary>vfio_pci_intx_unmask: a pin that is still high signals again.</summary>
    public void UnmaskPin()
    {
        _pinMasked = false;
        if (!Traits.NeverMasks)
            SignalPin();
    }

    public bool PinMasked => _pinMasked;

    private void SignalPin()
    {
        if (!_pinHigh || _pinMasked || EnabledIrq != vfio.VFIO_PCI_INTX_IRQ_INDEX)
            return;
        _pinMasked = !Traits.NeverMasks;
        Raise(vfio.VFIO_PCI_INTX_IRQ_INDEX, 0);
    }

    /// <summary>The kernel saves configuration space before and restores it after (drivers/pci/pci.c, pci_try_reset_function).</summary>
    public void Reset()
    {
        Resets++;
        Bar0.Clear();
        _pinHigh = false;
        Migration.Reset();
        Log.Reset();
    }

    /// <summary>BAR 0 as a file to be mapped.</summary>
    public MemFd ShareBar0()
    {
        if (_file is null)
        {
            _file = MemFd.Create("bar0", Bar0Bytes);
            var memory = MemoryMapping.MapShared(_file, 0, Bar0Bytes, writable: true);
            _memory = memory;
            _registers.CopyTo(Bar0);
        }

        return _file;
    }

    public void Dispose()
    {
        _memory?.Dispose();
        _file?.Dispose();
        _memory = null;
    }

    /// <summary>What closing a VFIO device does: interrupts off, function reset, out of its address space.</summary>
    public void Closed()
    {
        ClearIrqs();
        Reset();
        Config[4] = Config[5] = 0;
        Open = null;
        Space = null;
    }

    public void SetTrigger(int index, int vector, int number)
    {
        if (_triggers.Remove((index, vector), out EventFd? old))
            old.Dispose();
        if (number < 0)
            return;
        using var borrowed = new Borrowed(number);
        FileDescriptor copy = borrowed.Duplicate();
        _triggers.Add((index, vector), EventFd.AdoptEventFd(copy.Number));
        copy.SetHandleAsInvalid();
    }

    public void EnableIrq(int index)
    {
        if (EnabledIrq != index && index == vfio.VFIO_PCI_INTX_IRQ_INDEX)
            _pinMasked = false;
        EnabledIrq = index;
        SignalPin();
    }

    public void DisableIrq(int index)
    {
        foreach ((int Index, int Vector) key in _triggers.Keys.Where(k => k.Index == index).ToArray())
            SetTrigger(key.Index, key.Vector, -1);
        if (EnabledIrq == index)
            EnabledIrq = null;
    }

    public override string ToString() => $"device {Address}";

    private void ClearIrqs()
    {
        foreach ((int Index, int Vector) key in _triggers.Keys.ToArray())
            SetTrigger(key.Index, key.Vector, -1);
        EnabledIrq = null;
    }

    private void BuildConfig()
    {
        Span<byte> config = Config;
        BinaryPrimitives.WriteUInt32LittleEndian(config, 0x11e8_1234);
        BinaryPrimitives.WriteUInt16LittleEndian(config[6..], 0x10);
        config[0x34] = MsiAt;
        config[0x3D] = Traits.Pin;
        config[MsiAt] = 0x05;
        config[MsiAt + 1] = MsixAt;
        // 64-bit, multiple message capable by the number of vectors (PCI Local Bus 3.0, 6.8.1.3)
        BinaryPrimitives.WriteUInt16LittleEndian(
            config[(MsiAt + 2)..], (ushort)(0x80 | (System.Numerics.BitOperations.Log2((uint)Math.Max(Traits.MsiVectors, 1)) << 1)));
        config[MsixAt] = 0x11;
        BinaryPrimitives.WriteUInt16LittleEndian(config[(MsixAt + 2)..], (ushort)(Math.Max(Traits.MsixVectors, 1) - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(config[(MsixAt + 4)..], 0x1000);
        BinaryPrimitives.WriteUInt32LittleEndian(config[(MsixAt + 8)..], 0x1800);
        if (Traits.MsixVectors == 0)
            config[MsiAt + 1] = 0;
        if (Traits.MsiVectors == 0)
            config[0x34] = MsixAt;
    }

    /// <summary>A number that somebody else closes.</summary>
    private sealed class Borrowed : FileDescriptor
    {
        public Borrowed(int number) => SetHandle(number);

        protected override bool ReleaseHandle() => true;
    }
}
