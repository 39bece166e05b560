using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// An address space of iommufd with one device attached through its own node (Linux Documentation/userspace-api/iommufd.rst; vfio.h,
/// VFIO_DEVICE_BIND_IOMMUFD): through a page table with dirty tracking when the host's IOMMU has that, else through whatever the kernel picks.
/// </summary>
internal sealed unsafe partial class IommufdSpace : IHostAddressSpace
{
    /// <summary>Node of iommufd.</summary>
    public const string Node = "/dev/iommu";

    private readonly IKernelCalls _calls;
    private readonly string _address;
    private FileDescriptor? _iommufd;
    private uint _device, _ioas, _pageTable;

    private IommufdSpace(IKernelCalls calls, string address)
    {
        _calls = calls;
        _address = address;
    }

    /// <inheritdoc/>
    public HostIommuKind Kind => HostIommuKind.Iommufd;

    /// <summary>iommufd has no limit of its own; each mapping is kernel memory booked to this process.</summary>
    public int MaxMappings => int.MaxValue;

    /// <inheritdoc/>
    public ImmutableArray<UsableIovas> Usable { get; private set; } = [];

    /// <summary>Opens iommufd, binds <paramref name="device"/> to it and attaches it to a new address space.</summary>
    /// <exception cref="VfioAttachException">It does not go; nothing is left open but <paramref name="device"/>, which is the caller's.</exception>
    public static IommufdSpace Open(IKernelCalls calls, string address, FileDescriptor device)
    {
        var space = new IommufdSpace(calls, address);
        try
        {
            Errno errno = calls.Open(Node, out space._iommufd);
            if (errno != Errno.None)
                throw KernelPaths.OpenFailed(address, Node, errno);
            space.Bind(device);
            space.Allocate();
            space.Attach(device);
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
        var map = new iommu_ioas_map
        {
            size = (uint)Marshal.SizeOf<iommu_ioas_map>(),
            flags = iommufd.IOMMU_IOAS_MAP_FIXED_IOVA | iommufd.IOMMU_IOAS_MAP_READABLE | (writable ? iommufd.IOMMU_IOAS_MAP_WRITEABLE : 0),
            ioas_id = _ioas,
            user_va = address,
            length = iova.Bytes,
            iova = iova.Iova.Value,
        };
        return _calls.Ioctl(File, iommufd.IOMMU_IOAS_MAP, ref map);
    }

    /// <inheritdoc/>
    public Errno Unmap(IovaPages iova) => Unmap(iova.Iova.Value, iova.Bytes);

    /// <summary>iommufd.h, iommu_ioas_unmap: 0 and 2^64-1 mean everything.</summary>
    public Errno UnmapAll() => Unmap(0, ulong.MaxValue) is var errno && errno == Errno.ENOENT ? Errno.None : errno;

    /// <summary>Objects from the youngest to the oldest; the device has been closed, which detached and unbound it.</summary>
    public void Dispose()
    {
        if (_iommufd is null || _iommufd.IsClosed)
            return;
        Destroy(ref _pageTable);
        Destroy(ref _ioas);
        _iommufd.Dispose();
    }

    private FileDescriptor File => _iommufd!;

    private Errno Unmap(ulong iova, ulong length)
    {
        var unmap = new iommu_ioas_unmap { size = (uint)Marshal.SizeOf<iommu_ioas_unmap>(), ioas_id = _ioas, iova = iova, length = length };
        return _calls.Ioctl(File, iommufd.IOMMU_IOAS_UNMAP, ref unmap);
    }

    private void Bind(FileDescriptor device)
    {
        var bind = new vfio_device_bind_iommufd
        {
            // The token came later; a kernel without it refuses the longer structure's flag, not its size.
            argsz = (uint)Marshal.SizeOf<vfio_device_bind_iommufd>(),
            iommufd = File.Number,
        };
        Errno errno = _calls.Ioctl(device, vfio.VFIO_DEVICE_BIND_IOMMUFD, ref bind);
        if (errno == Errno.EBUSY)
            throw new DeviceBusyException(_address, "its node");
        Check("VFIO_DEVICE_BIND_IOMMUFD", errno);
        _device = bind.out_devid;
    }

    private void Allocate()
    {
        var ioas = new iommu_ioas_alloc { size = (uint)Marshal.SizeOf<iommu_ioas_alloc>() };
        Check("IOMMU_IOAS_ALLOC", _calls.Ioctl(File, iommufd.IOMMU_IOAS_ALLOC, ref ioas));
        _ioas = ioas.out_ioas_id;

        var info = new iommu_hw_info { size = (uint)Marshal.SizeOf<iommu_hw_info>(), dev_id = _device };
        Errno errno = _calls.Ioctl(File, iommufd.IOMMU_GET_HW_INFO, ref info);
        // Kernels before 6.6 have no such call; EOPNOTSUPP: the IOMMU's driver tells nothing.
        if (errno is not (Errno.None or Errno.ENOTTY or Errno.ENOTSUP))
            Check("IOMMU_GET_HW_INFO", errno);
        if (errno == Errno.None && (info.out_capabilities & iommufd.IOMMU_HW_CAP_DIRTY_TRACKING) != 0)
            AllocatePageTable();
    }

    private void AllocatePageTable()
    {
        var table = new iommu_hwpt_alloc
        {
            size = (uint)Marshal.SizeOf<iommu_hwpt_alloc>(),
            flags = iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
            dev_id = _device,
            pt_id = _ioas,
            data_type = iommufd.IOMMU_HWPT_DATA_NONE,
        };
        Errno errno = _calls.Ioctl(File, iommufd.IOMMU_HWPT_ALLOC, ref table);
        if (errno == Errno.ENOTSUP)
            return; // the unit has it, this device's domain does not
        Check("IOMMU_HWPT_ALLOC", errno);
        _pageTable = table.out_hwpt_id;
    }

    private void Attach(FileDescriptor device)
    {
        var attach = new vfio_device_attach_iommufd_pt
        {
            // Without the PASID that newer kernels take: only its flag would make it count.
            argsz = (uint)Marshal.OffsetOf<vfio_device_attach_iommufd_pt>(nameof(vfio_device_attach_iommufd_pt.pasid)),
            pt_id = _pageTable != 0 ? _pageTable : _ioas,
        };
        Check("VFIO_DEVICE_ATTACH_IOMMUFD_PT", _calls.Ioctl(device, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, ref attach));
        ReadRanges();
    }

    private void ReadRanges()
    {
        var ranges = new iommu_iova_range[16];
        while (true)
        {
            Errno errno;
            iommu_ioas_iova_ranges query;
            // SAFETY: pinned for the call, in which the kernel writes at most num_iovas entries.
            fixed (iommu_iova_range* pointer = ranges)
            {
                query = new iommu_ioas_iova_ranges
                {
                    size = (uint)Marshal.SizeOf<iommu_ioas_iova_ranges>(),
                    ioas_id = _ioas,
                    num_iovas = (uint)ranges.Length,
                    allowed_iovas = (ulong)pointer,
                };
                errno = _calls.Ioctl(File, iommufd.IOMMU_IOAS_IOVA_RANGES, ref query);
            }

            if (errno == Errno.EMSGSIZE && query.num_iovas > ranges.Length && query.num_iovas <= ushort.MaxValue)
            {
                ranges = new iommu_iova_range[query.num_iovas];
                continue;
            }

            Check("IOMMU_IOAS_IOVA_RANGES", errno);
            if (query.out_iova_alignment > RamPage.Size)
                throw new VfioAttachException(_address, $"the host's IOMMU maps units of {query.out_iova_alignment} bytes; pages of {RamPage.Size} bytes are needed");
            Usable = [.. ranges.Take((int)query.num_iovas).Select(r => new UsableIovas(new Iova(r.start), new Iova(r.last)))];
            return;
        }
    }

    private void Destroy(ref uint id)
    {
        if (id == 0)
            return;
        var destroy = new iommu_destroy { size = (uint)Marshal.SizeOf<iommu_destroy>(), id = id };
        id = 0;
        // Closing iommufd destroys what is left; nothing can be done about a refusal.
        _ = _calls.Ioctl(File, iommufd.IOMMU_DESTROY, ref destroy);
    }

    private void Check(string call, Errno errno)
    {
        if (errno != Errno.None)
            throw new VfioAttachException(_address, $"{call} failed: {errno}");
    }
}
