using System.Buffers.Binary;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// Guest accesses to a BAR, carried to the device. What a device that refuses or has gone would answer on a bus is what the guest sees: all
/// ones, and writes that vanish.
/// </summary>
/// <param name="device">The device.</param>
/// <param name="id">Its id, for messages.</param>
/// <param name="bar">Number of the BAR.</param>
/// <param name="postWrites">Whether writes need not wait for the device: none of its regions is written past it through a mapping.</param>
/// <param name="notices">Told of the first refusal.</param>
internal sealed class BarAccess(IDeviceAccess device, string id, int bar, bool postWrites, NoticeBoard notices) : IMmioHandler
{
    /// <inheritdoc/>
    public ulong Read(ulong offset, int size, in TransactionAttributes attributes)
    {
        Span<byte> data = stackalloc byte[8];
        data.Clear();
        try
        {
            device.ReadRegion(bar, offset, data[..size]);
            return BinaryPrimitives.ReadUInt64LittleEndian(data);
        }
        catch (IOException e) when (e is DeviceRefusedException or DeviceLostException)
        {
            Tell("reading", offset, size, e);
            return ulong.MaxValue >> (64 - size * 8);
        }
    }

    /// <inheritdoc/>
    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        Span<byte> data = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(data, value);
        try
        {
            device.WriteRegion(bar, offset, data[..size], posted: postWrites && size >= 4);
        }
        catch (IOException e) when (e is DeviceRefusedException or DeviceLostException)
        {
            Tell("writing", offset, size, e);
        }
    }

    private void Tell(string what, ulong offset, int size, IOException e)
    {
        if (e is DeviceRefusedException)
            notices.PostOnce(NoticeKind.RegionAccess, $"{id}: {what} {size} bytes at 0x{offset:x} of BAR {bar}: {e.Message}");
    }
}
