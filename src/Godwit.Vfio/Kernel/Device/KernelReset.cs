using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>
/// Reset of a kernel device: of the function alone where that is possible (vfio.h, VFIO_DEVICE_RESET), else of its slot or bus
/// (VFIO_DEVICE_PCI_HOT_RESET), which is taken only when no other function would be reset with it.
/// </summary>
internal sealed class KernelReset(DeviceCalls device, HostPciAddress address, FileDescriptor? group)
{
    private enum Means
    {
        None,
        Function,
        Bus,
    }

    private Means _means;

    /// <summary>Finds out how it can be reset.</summary>
    /// <param name="function">Whether the kernel can reset the function alone (VFIO_DEVICE_FLAGS_RESET).</param>
    public bool Probe(bool function)
    {
        _means = function ? Means.Function : BusIsOurs() ? Means.Bus : Means.None;
        return _means != Means.None;
    }

    /// <summary>Resets it.</summary>
    /// <exception cref="DeviceRefusedException">There is no way, or it failed.</exception>
    public void Run()
    {
        switch (_means)
        {
            case Means.Function:
                device.Ioctl("VFIO_DEVICE_RESET", vfio.VFIO_DEVICE_RESET);
                break;
            case Means.Bus:
                ResetBus();
                break;
            default:
                throw new DeviceRefusedException("VFIO_DEVICE_RESET", Errno.ENOTSUP);
        }
    }

    private bool BusIsOurs()
    {
        int head = Marshal.SizeOf<vfio_pci_hot_reset_info>(), entry = Marshal.SizeOf<vfio_pci_dependent_device>();
        byte[] buffer = new byte[head + entry]; // with us alone on the bus there is one entry; more do not fit (ENOSPC), and would be others
        MemoryMarshal.Write(buffer, new vfio_pci_hot_reset_info { argsz = (uint)buffer.Length });
        // ENODEV: the bus cannot be reset. The device itself is there.
        if (device.Try(vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buffer, out _) != Errno.None)
            return false;
        vfio_pci_hot_reset_info info = MemoryMarshal.Read<vfio_pci_hot_reset_info>(buffer);
        vfio_pci_dependent_device only = MemoryMarshal.Read<vfio_pci_dependent_device>(buffer.AsSpan(head));
        return info.count == 1 && only.segment == address.Domain && only.bus == address.Bus && only.devfn == (address.Slot << 3 | address.Function);
    }

    /// <summary>Ownership is proven by the group's descriptor, or, for a device bound to iommufd, by none at all.</summary>
    private void ResetBus()
    {
        int head = Marshal.SizeOf<vfio_pci_hot_reset>(), count = group is null ? 0 : 1;
        byte[] buffer = new byte[head + (count * sizeof(int))];
        MemoryMarshal.Write(buffer, new vfio_pci_hot_reset { argsz = (uint)buffer.Length, count = (uint)count });
        if (group is not null)
            MemoryMarshal.Write(buffer.AsSpan(head), group.Number);
        device.Ioctl("VFIO_DEVICE_PCI_HOT_RESET", vfio.VFIO_DEVICE_PCI_HOT_RESET, buffer);
    }
}
