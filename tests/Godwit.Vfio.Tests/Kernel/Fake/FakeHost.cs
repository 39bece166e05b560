using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Vfio.Tests;

/// <summary>A host with one PCI function bound to vfio-pci, in group 7, and the nodes of VFIO; and a guest board to plug it into.</summary>
internal sealed class FakeHost : IDisposable
{
    public const string Address = "0000:3b:00.2";
    public const string GroupPath = "/dev/vfio/7", ContainerPath = "/dev/vfio/vfio", NodePath = "/dev/vfio/devices/vfio0";

    private readonly ModelBoard _board = new();
    private readonly PciHostBridge _bridge;

    public FakeHost(FakeDeviceTraits? device = null, FakeType1Traits? type1 = null, bool iommufd = false, FakeIommufdTraits? iommufdTraits = null)
    {
        Kernel = new FakeKernel();
        Kernel.Sysfs.Add(Address, 7, "vfio-pci");
        Kernel.Sysfs.AddVfioNode(Address, "vfio0", 511, 3);
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
    }

    public FakeKernel Kernel { get; }

    public FakeVfioDevice Device { get; }

    public FakeGroup Group { get; }

    public ContainerFile? Container { get; private set; }

    public IommufdFile? Iommufd { get; private set; }

    public ModelBoard Board => _board;

    public KernelBackend Open(HostIommuKind kind = HostIommuKind.Auto, string host = Address) =>
        KernelAttach.Open(new KernelDeviceOptions { Host = host, Iommu = kind }, Kernel, Kernel.Host);

    /// <summary>Attaches and plugs it, without a vIOMMU: IOVA is GPA.</summary>
    public VfioPciFunction Plug(HostIommuKind kind = HostIommuKind.Auto, DirtyTrackingMode tracking = DirtyTrackingMode.Auto, int slot = 3)
    {
        var options = new VfioDeviceOptions { Id = "dev0", Kernel = new KernelDeviceOptions { Host = Address, Iommu = kind }, DirtyTracking = tracking };
        VfioPciFunction function = VfioPciFunction.Connect(options, Open(kind), null, _board.Topology, _board.Ram);
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

    public void Dispose()
    {
        _board.Dispose();
        Kernel.Dispose();
    }
}
