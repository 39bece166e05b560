using System.Collections.Concurrent;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Vfio.Tests;

/// <summary>A host with one PCI function bound to vfio-pci, in group 7, and the nodes of VFIO; and a guest board to plug it into.</summary>
internal sealed class FakeHost : IDisposable
{
    public const string Address = "0000:3b:00.2";
    public const string GroupPath = "/dev/vfio/7", ContainerPath = "/dev/vfio/vfio", NodePath = "/dev/vfio/devices/vfio0";

    public const ulong BarAddress = 0x9000_0000;

    private const int NodeMajor = 511, NodeMinor = 3;

    private readonly Lock _levelGate = new();
    private readonly ModelBoard _board;
    private readonly PciHostBridge _bridge;

    private bool _level; // under _levelGate

    public FakeHost(FakeDeviceTraits? device = null, FakeType1Traits? type1 = null, bool iommufd = false, FakeIommufdTraits? iommufdTraits = null, bool guestIommu = false,
        FakeSysfs? sysfs = null)
    {
        _board = new ModelBoard(interrupts: new Arrivals(Arrived));
        Kernel = new FakeKernel(sysfs);
        if (sysfs is null)
            Describe(Kernel.Sysfs);
        Device = new FakeVfioDevice(Kernel, Address, device);
        Group = new FakeGroup(Kernel, 7);
        Group.Devices.Add(Device);
        Kernel.Nodes[ContainerPath] = () => Container = new ContainerFile(Kernel, type1 ?? new FakeType1Traits());
        Kernel.Nodes[GroupPath] = () => new GroupFile(Group);
        if (iommufd)
        {
            Kernel.Nodes[IommufdSpace.Node] = () => Iommufd = new IommufdFile(Kernel, iommufdTraits ?? new FakeIommufdTraits());
            Kernel.Nodes[NodePath] = () => new DeviceFile(Device, null);
        }

        _bridge = new PciHostBridge(_board.Topology, new Gpa(0xB000_0000), 16);
        _bridge.ConnectInputs((_, high) =>
        {
            lock (_levelGate)
            {
                if (high != _level)
                    Levels.Add(high);
                _level = high;
            }
        });
        if (guestIommu)
            _bridge.RootBus.SetIommu(new BoardIommu(_board));
    }

    /// <summary>What sysfs says of it.</summary>
    public static void Describe(FakeSysfs sysfs)
    {
        sysfs.Add(Address, 7, "vfio-pci");
        sysfs.AddVfioNode(Address, "vfio0", NodeMajor, NodeMinor);
    }

    /// <summary>Interrupt messages that arrived.</summary>
    public BlockingCollection<uint> Arrived { get; } = [];

    /// <summary>Changes of the input that the device's pin leads to.</summary>
    public BlockingCollection<bool> Levels { get; } = [];

    /// <summary>The input of INTB# in slot 3.</summary>
    public int Input => (1 + 3) % PciHostBridge.InterruptInputs;

    public ConcurrentQueue<string> Notices { get; } = new();

    public FakeKernel Kernel { get; }

    public FakeVfioDevice Device { get; }

    public FakeGroup Group { get; }

    public ContainerFile? Container { get; private set; }

    public IommufdFile? Iommufd { get; private set; }

    public ModelBoard Board => _board;

    public KernelBackend Open(HostIommuKind kind = HostIommuKind.Auto, string host = Address) =>
        KernelAttach.Open(new KernelDeviceOptions { Host = host, Iommu = kind }, Kernel, Kernel.Host);

    /// <summary>Attaches and plugs it, without a vIOMMU: IOVA is GPA.</summary>
    public VfioPciFunction Plug(HostIommuKind kind = HostIommuKind.Auto, DirtyTrackingMode tracking = DirtyTrackingMode.Auto, int slot = 3, bool mapBars = false,
        EnableMigration enable = EnableMigration.Auto) =>
        Plug(new KernelDeviceOptions { Host = Address, Iommu = kind }, tracking, slot, mapBars, enable);

    /// <summary>The same through a descriptor of its node that this process was started with.</summary>
    public VfioPciFunction PlugInherited(DirtyTrackingMode tracking = DirtyTrackingMode.Auto, bool mapBars = false, EnableMigration enable = EnableMigration.Auto)
    {
        int number = Kernel.Inherit(new DeviceFile(Device, null), new InheritedDescriptor(true, NodeMajor, NodeMinor, CloseOnExec: false));
        return Plug(new KernelDeviceOptions { Descriptor = number }, tracking, slot: 3, mapBars, enable);
    }

    private VfioPciFunction Plug(KernelDeviceOptions device, DirtyTrackingMode tracking, int slot, bool mapBars, EnableMigration enable = EnableMigration.Auto)
    {
        var options = new VfioDeviceOptions { Id = "dev0", Kernel = device, DirtyTracking = tracking, MapBars = mapBars, EnableMigration = enable };
        VfioPciFunction function = VfioPciFunction.Connect(options, KernelAttach.Open(device, Kernel, Kernel.Host), null, _board.Topology, _board.Ram);
        function.Notice += Notices.Enqueue;
        try
        {
            _bridge.RootBus.Attach(function, new DevFn((byte)slot, 0));
            return function;
        }
        catch
        {
            function.Dispose();
            throw;
        }
    }

    /// <summary>The guest programs BAR 0, memory space and bus mastering.</summary>
    public static void Boot(VfioPciFunction function)
    {
        function.WriteConfig(0x10, (uint)BarAddress, 4);
        function.WriteConfig(0x04, 6, 2);
    }

    public void Map(ulong iovaPage, ulong gpaPage, ulong count = 1, AccessRights rights = AccessRights.ReadWrite) =>
        _board.Iommu.AnnounceMapped(new Iova(iovaPage << 12), count << 12, new Gpa(gpaPage << 12), rights);

    public void Unmap(ulong iovaPage, ulong count = 1) => _board.Iommu.AnnounceUnmapped(new Iova(iovaPage << 12), count << 12);

    /// <summary>A guest CPU's access to BAR 0.</summary>
    public ulong Read(ulong offset, int size)
    {
        Span<byte> data = stackalloc byte[8];
        data.Clear();
        Assert.Equal(MemoryResult.Ok, _board.Topology.System.Read(new BusAddress(BarAddress + offset), data[..size], TransactionAttributes.Vcpu));
        return BitConverter.ToUInt64(data);
    }

    /// <inheritdoc cref="Read"/>
    public void Write(ulong offset, ulong value, int size) => Assert.Equal(
        MemoryResult.Ok, _board.Topology.System.Write(new BusAddress(BarAddress + offset), BitConverter.GetBytes(value).AsSpan(0, size), TransactionAttributes.Vcpu));

    /// <summary>First 8 bytes of a RAM page, by GPA.</summary>
    public ulong Ram(ulong gpaPage)
    {
        Span<byte> data = stackalloc byte[8];
        Assert.Equal(MemoryResult.Ok, _board.Topology.System.Read(new BusAddress(gpaPage << 12), data, TransactionAttributes.Vcpu));
        return BitConverter.ToUInt64(data);
    }

    /// <summary>Takes the RAM pages marked since the last call.</summary>
    public List<ulong> Dirty()
    {
        var words = new ulong[ModelBoard.RamPages / 64];
        _board.Ram.Dirty.Drain(default, words);
        return [.. Enumerable.Range(0, words.Length * 64).Where(p => (words[p / 64] >> (p % 64) & 1) != 0).Select(p => (ulong)p)];
    }

    /// <summary>A CPU has handled an interrupt of that input.</summary>
    public void EndInterrupt() => _bridge.EndInterrupt(Input);

    public bool TakeLevel()
    {
        Assert.True(Levels.TryTake(out bool high, DeviceServer.Patience), "the input does not change");
        return high;
    }

    public uint TakeInterrupt()
    {
        Assert.True(Arrived.TryTake(out uint data, DeviceServer.Patience), "no interrupt came");
        return data;
    }

    public void Dispose()
    {
        _board.Dispose();
        Device.Dispose();
        Kernel.Dispose();
    }
}
