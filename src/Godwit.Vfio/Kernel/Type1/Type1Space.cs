using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>
/// A group in a container of its own with the type1v2 IOMMU (Linux Documentation/driver-api/vfio.rst; vfio.h, "IOCTLs for GROUP" and "API for
/// Type1 VFIO IOMMU").
/// </summary>
internal sealed partial class Type1Space : IHostAddressSpace
{
    /// <summary>Mappings of a container by default (Linux drivers/vfio/vfio_iommu_type1.c, dma_entry_limit), for kernels that do not tell.</summary>
    private const int DefaultMappings = 65535;

    private readonly IKernelCalls _calls;
    private FileDescriptor? _container, _group;
    private bool _joined;

    private Type1Space(IKernelCalls calls) => _calls = calls;

    /// <inheritdoc/>
    public HostIommuKind Kind => HostIommuKind.Type1;

    /// <summary>What the container told when it was made.</summary>
    public Type1Info Info { get; private set; } = null!;

    /// <summary>The group's descriptor, which proves that its devices are ours.</summary>
    public FileDescriptor Group => _group!;

    /// <inheritdoc/>
    public int MaxMappings => Info.MappingsAvailable ?? DefaultMappings;

    /// <inheritdoc/>
    public ImmutableArray<UsableIovas> Usable => Info.Usable;

    /// <summary>Opens the container and the group of <paramref name="device"/>, joins them, and opens the device.</summary>
    /// <exception cref="VfioAttachException">It does not go; nothing is left open.</exception>
    public static Type1Space Open(IKernelCalls calls, HostPciDevice device, HostPci host, out FileDescriptor file)
    {
        var space = new Type1Space(calls);
        try
        {
            space.OpenContainer(device.Address.ToString());
            space.OpenGroup(device, host);
            file = space.OpenDevice(device.Address.ToString());
            return space;
        }
        catch
        {
            space.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public Errno Map(IovaPages iova, nuint address, bool writable)
    {
        var map = new vfio_iommu_type1_dma_map
        {
            argsz = (uint)Marshal.SizeOf<vfio_iommu_type1_dma_map>(),
            flags = vfio.VFIO_DMA_MAP_FLAG_READ | (writable ? vfio.VFIO_DMA_MAP_FLAG_WRITE : 0),
            vaddr = address,
            iova = iova.Iova.Value,
            size = iova.Bytes,
        };
        return _calls.Ioctl(Container, vfio.VFIO_IOMMU_MAP_DMA, ref map);
    }

    /// <inheritdoc/>
    public Errno Unmap(IovaPages iova)
    {
        var unmap = new vfio_iommu_type1_dma_unmap
        {
            argsz = (uint)Marshal.SizeOf<vfio_iommu_type1_dma_unmap>(),
            iova = iova.Iova.Value,
            size = iova.Bytes,
        };
        Errno errno = _calls.Ioctl(Container, vfio.VFIO_IOMMU_UNMAP_DMA, ref unmap);
        // The kernel tells what it took away, and finds nothing wrong with nothing.
        return errno == Errno.None && unmap.size == 0 ? Errno.ENOENT : errno;
    }

    /// <inheritdoc/>
    public Errno UnmapAll()
    {
        var unmap = new vfio_iommu_type1_dma_unmap
        {
            argsz = (uint)Marshal.SizeOf<vfio_iommu_type1_dma_unmap>(),
            flags = vfio.VFIO_DMA_UNMAP_FLAG_ALL,
        };
        return _calls.Ioctl(Container, vfio.VFIO_IOMMU_UNMAP_DMA, ref unmap);
    }

    /// <summary>Group, then container: a group that leaves its container takes the mappings with it.</summary>
    public void Dispose()
    {
        if (_joined)
        {
            _joined = false;
            // Closing the group does the same; the order is made plain. Nothing can be done about a refusal.
            _ = _calls.Ioctl(_group!, vfio.VFIO_GROUP_UNSET_CONTAINER, 0, out _);
        }

        _group?.Dispose();
        _container?.Dispose();
    }

    private FileDescriptor Container => _container!;

    private void OpenContainer(string address)
    {
        const string Path = "/dev/vfio/vfio";
        Errno errno = _calls.Open(Path, out _container);
        if (errno != Errno.None)
            throw KernelPaths.OpenFailed(address, Path, errno);
        errno = _calls.Ioctl(Container, vfio.VFIO_GET_API_VERSION, 0, out int version);
        if (errno != Errno.None || version != vfio.VFIO_API_VERSION)
            throw new VfioAttachException(address, $"the kernel's VFIO has version {(errno == Errno.None ? version : errno)}; {vfio.VFIO_API_VERSION} is known");
        errno = _calls.Ioctl(Container, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_TYPE1v2_IOMMU, out int has);
        if (errno != Errno.None || has == 0)
            throw new VfioAttachException(address, $"the kernel has no type1v2 IOMMU ({(errno == Errno.None ? "modprobe vfio_iommu_type1" : errno)})");
    }

    private void OpenGroup(HostPciDevice device, HostPci host)
    {
        string address = device.Address.ToString();
        int group = device.IommuGroup ?? throw new VfioAttachException(address, "it is in no IOMMU group; the host's IOMMU is off (intel_iommu=on, amd_iommu=on) or does not cover it");
        string path = $"/dev/vfio/{group}";
        Errno errno = _calls.Open(path, out _group);
        if (errno != Errno.None)
            throw KernelPaths.OpenFailed(address, path, errno);
        var status = new vfio_group_status { argsz = (uint)Marshal.SizeOf<vfio_group_status>() };
        Check(address, "VFIO_GROUP_GET_STATUS", _calls.Ioctl(_group!, vfio.VFIO_GROUP_GET_STATUS, ref status));
        if ((status.flags & vfio.VFIO_GROUP_FLAGS_VIABLE) == 0)
            throw new GroupNotViableException(address, group, [.. host.Group(group).Where(d => !d.LeavesGroupViable)]);
        if ((status.flags & vfio.VFIO_GROUP_FLAGS_CONTAINER_SET) != 0)
            throw new DeviceBusyException(address, path);

        int container = Container.Number;
        errno = _calls.Ioctl(_group!, vfio.VFIO_GROUP_SET_CONTAINER, ref container);
        if (errno == Errno.EBUSY)
            throw new DeviceBusyException(address, path);
        Check(address, "VFIO_GROUP_SET_CONTAINER", errno);
        _joined = true;
        errno = _calls.Ioctl(Container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, out _);
        if (errno == Errno.EPERM)
        {
            // drivers/vfio/vfio_iommu_type1.c: without interrupt remapping a device could forge interrupts.
            throw new VfioAttachException(
                address, "the host cannot isolate its interrupts (no interrupt remapping); enable it, or, if the guest is trusted, load vfio_iommu_type1 with allow_unsafe_interrupts=1");
        }

        Check(address, "VFIO_SET_IOMMU", errno);
        Check(address, "VFIO_IOMMU_GET_INFO", Type1Info.Read(_calls, Container, out Type1Info? info));
        Info = info!;
        KernelPaths.CheckPageSizes(address, Info.PageSizes);
    }

    private FileDescriptor OpenDevice(string address)
    {
        byte[] name = [.. System.Text.Encoding.ASCII.GetBytes(address), 0];
        Errno errno = _calls.Ioctl(_group!, vfio.VFIO_GROUP_GET_DEVICE_FD, name, out int number);
        if (errno == Errno.EBUSY)
            throw new DeviceBusyException(address, address);
        Check(address, "VFIO_GROUP_GET_DEVICE_FD", errno);
        return _calls.Adopt(number);
    }

    private static void Check(string address, string call, Errno errno)
    {
        if (errno != Errno.None)
            throw new VfioAttachException(address, $"{call} failed: {errno}");
    }
}
