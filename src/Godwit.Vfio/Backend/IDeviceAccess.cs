using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>Regions, interrupts and reset of a device (vfio.h, VFIO_DEVICE_*).</summary>
internal interface IDeviceAccess
{
    /// <summary>VFIO_DEVICE_GET_INFO.</summary>
    DeviceInfo GetInfo();

    /// <summary>VFIO_DEVICE_GET_REGION_INFO.</summary>
    RegionInfo GetRegionInfo(int index);

    /// <summary>VFIO_DEVICE_GET_IRQ_INFO.</summary>
    IrqInfo GetIrqInfo(int index);

    /// <summary>Reads all of <paramref name="destination"/>.</summary>
    void ReadRegion(int index, ulong offset, Span<byte> destination);

    /// <summary>Writes; <paramref name="posted"/> need not wait for the device.</summary>
    void WriteRegion(int index, ulong offset, ReadOnlySpan<byte> data, bool posted);

    /// <summary>
    /// Maps what the device offers of a region into this process, but no page that <paramref name="keepOut"/> touches; accesses of 1, 2, 4 or 8
    /// bytes, aligned, are made there from then on while its memory is there, all others as before. Returns how many bytes are mapped: 0 when
    /// the device offers nothing.
    /// </summary>
    /// <exception cref="DeviceRefusedException">It cannot be mapped, or not safely; nothing has changed.</exception>
    ulong MapRegion(int index, ReadOnlySpan<SparseArea> keepOut) => 0;

    /// <summary>
    /// Has <see cref="WriteRegion"/> use eventfds instead of messages where the device offers them in a region of <paramref name="size"/>
    /// bytes. Returns where: a store through a mapping would ring none. A back end without messages has none.
    /// </summary>
    IReadOnlyList<SparseArea> UseDoorbells(int index, ulong size) => [];

    /// <summary>VFIO_DEVICE_SET_IRQS with eventfds to trigger, from vector 0.</summary>
    void SetIrqEventFds(int index, ReadOnlySpan<EventFd?> fds);

    /// <summary>VFIO_DEVICE_SET_IRQS disabling the index.</summary>
    void DisableIrqs(int index);

    /// <summary>VFIO_DEVICE_SET_IRQS unmasking vector 0: for an index that masks itself whenever it has signalled.</summary>
    void UnmaskIrq(int index);

    /// <summary>VFIO_DEVICE_RESET: power-on state, RUNNING for migration (vfio.h, vfio_device_mig_state).</summary>
    void Reset();
}
