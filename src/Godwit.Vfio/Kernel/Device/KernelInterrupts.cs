using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>Interrupts of a kernel device (vfio.h, VFIO_DEVICE_GET_IRQ_INFO and VFIO_DEVICE_SET_IRQS).</summary>
internal sealed class KernelInterrupts(DeviceCalls device)
{
    /// <summary>An index that the device does not have: no vectors.</summary>
    public IrqInfo GetInfo(int index)
    {
        var info = new vfio_irq_info { argsz = (uint)Marshal.SizeOf<vfio_irq_info>(), index = (uint)index };
        Errno errno = device.Try(vfio.VFIO_DEVICE_GET_IRQ_INFO, ref info, out _);
        // vfio-pci knows the error index of PCI Express devices only.
        if (errno == Errno.EINVAL)
            return new IrqInfo(index, 0, false, false, false, false);
        device.Throw("VFIO_DEVICE_GET_IRQ_INFO", errno);
        return new IrqInfo(
            index,
            (int)Math.Min(info.count, int.MaxValue),
            (info.flags & vfio.VFIO_IRQ_INFO_EVENTFD) != 0,
            (info.flags & vfio.VFIO_IRQ_INFO_MASKABLE) != 0,
            (info.flags & vfio.VFIO_IRQ_INFO_AUTOMASKED) != 0,
            (info.flags & vfio.VFIO_IRQ_INFO_NORESIZE) != 0);
    }

    /// <summary>Eventfds to trigger, from vector 0. A host with fewer vectors to give than asked for gives those it has.</summary>
    public void SetEventFds(int index, ReadOnlySpan<EventFd?> fds)
    {
        int head = Marshal.SizeOf<vfio_irq_set>();
        byte[] buffer = new byte[head + (fds.Length * sizeof(int))];
        Span<int> numbers = MemoryMarshal.Cast<byte, int>(buffer.AsSpan(head));
        for (int i = 0; i < fds.Length; i++)
            numbers[i] = fds[i] is { } fd ? fd.Number : -1;
        int count = fds.Length;
        while (true)
        {
            int length = head + (count * sizeof(int));
            MemoryMarshal.Write(buffer, new vfio_irq_set
            {
                argsz = (uint)length,
                flags = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER,
                index = (uint)index,
                count = (uint)count,
            });
            // A positive result is the number of vectors there are (drivers/vfio/pci/vfio_pci_intrs.c, vfio_msi_enable).
            int available = device.Ioctl("VFIO_DEVICE_SET_IRQS", vfio.VFIO_DEVICE_SET_IRQS, buffer.AsSpan(0, length));
            if (available <= 0 || available >= count)
                return;
            count = available;
        }
    }

    /// <summary>Disables an index.</summary>
    public void Disable(int index) => Set(index, vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 0);

    /// <summary>Unmasks vector 0, which signals at once when its level is still high (drivers/vfio/pci/vfio_pci_intrs.c, vfio_pci_intx_unmask_handler).</summary>
    public void Unmask(int index) => Set(index, vfio.VFIO_IRQ_SET_ACTION_UNMASK, 1);

    private void Set(int index, uint action, uint count)
    {
        var set = new vfio_irq_set
        {
            argsz = (uint)Marshal.SizeOf<vfio_irq_set>(),
            flags = vfio.VFIO_IRQ_SET_DATA_NONE | action,
            index = (uint)index,
            count = count,
        };
        device.Ioctl("VFIO_DEVICE_SET_IRQS", vfio.VFIO_DEVICE_SET_IRQS, ref set);
    }
}
