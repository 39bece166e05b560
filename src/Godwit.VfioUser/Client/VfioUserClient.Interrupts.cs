using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DEVICE_SET_IRQS.</content>
public sealed partial class VfioUserClient
{
    /// <summary>DEVICE_SET_IRQS with eventfds to trigger; null entries de-assign. Splits at the peer's fd limit.</summary>
    /// <param name="index">Interrupt index, <see cref="PciIrq"/>.</param>
    /// <param name="start">First vector.</param>
    /// <param name="fds">One for each vector from <paramref name="start"/> on; the device gets duplicates.</param>
    /// <exception cref="VfioUserRemoteException">
    /// The device refused; vectors before the refused ones are set. ENOTSUP: it said that it takes no descriptors, so it was not asked.
    /// </exception>
    public void SetIrqEventFds(int index, int start, ReadOnlySpan<EventFd?> fds) => SetEventFds(IrqSetFlags.ActionTrigger, index, start, fds);

    /// <summary>
    /// DEVICE_SET_IRQS with eventfds that the device signals when a vector is masked, or unmasked; null entries de-assign. Some devices have it the other way round:
    /// who signals what it gave for unmasking unmasks (as KVM does with INTx).
    /// </summary>
    /// <param name="index">Interrupt index, <see cref="PciIrq"/>.</param>
    /// <param name="start">First vector.</param>
    /// <param name="masked">Of masking, or of unmasking.</param>
    /// <param name="fds">One for each vector from <paramref name="start"/> on; the device gets duplicates.</param>
    /// <exception cref="VfioUserRemoteException">The device refused, as those do that know of no such eventfds; vectors before the refused ones are set.</exception>
    public void SetIrqMaskEventFds(int index, int start, bool masked, ReadOnlySpan<EventFd?> fds) =>
        SetEventFds(masked ? IrqSetFlags.ActionMask : IrqSetFlags.ActionUnmask, index, start, fds);

    private void SetEventFds(IrqSetFlags action, int index, int start, ReadOnlySpan<EventFd?> fds)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        if (MaxMessageFiles == 0 && fds.ContainsAnyExcept((EventFd?)null))
            throw new VfioUserRemoteException("DEVICE_SET_IRQS with eventfds", Errno.ENOTSUP, "the device's max_msg_fds is 0");
        var files = new FileDescriptor[Math.Min(fds.Length, Math.Max(1, MaxMessageFiles))];
        for (int done = 0; done < fds.Length;)
        {
            // One message carries descriptors for all of its vectors or for none.
            int count = 0;
            bool assign = fds[done] is not null;
            while (done + count < fds.Length && count < files.Length && fds[done + count] is not null == assign)
            {
                if (fds[done + count] is { } fd)
                    files[count] = fd;
                count++;
            }
            SetIrqs(IrqSetFlags.DataEventFd | action, index, start + done, count, [], assign ? files.AsSpan(0, count) : []);
            done += count;
        }
    }

    /// <summary>DEVICE_SET_IRQS disabling the whole index.</summary>
    public void DisableIrqs(int index) => SetIrqs(IrqSetFlags.DataNone | IrqSetFlags.ActionTrigger, index, 0, 0, [], []);

    /// <summary>DEVICE_SET_IRQS trigger by message (loopback).</summary>
    public void TriggerIrq(int index, int start, int count) =>
        SetIrqs(IrqSetFlags.DataNone | IrqSetFlags.ActionTrigger, index, start, count, [], []);

    /// <summary>DEVICE_SET_IRQS trigger by message of those vectors whose entry is not 0 (loopback).</summary>
    public void TriggerIrq(int index, int start, ReadOnlySpan<byte> which) =>
        SetIrqs(IrqSetFlags.DataBool | IrqSetFlags.ActionTrigger, index, start, which.Length, which, []);

    /// <summary>DEVICE_SET_IRQS mask or unmask of vectors.</summary>
    public void MaskIrq(int index, int start, int count, bool masked) =>
        SetIrqs(IrqSetFlags.DataNone | (masked ? IrqSetFlags.ActionMask : IrqSetFlags.ActionUnmask), index, start, count, [], []);

    private void SetIrqs(IrqSetFlags flags, int index, int start, int count, ReadOnlySpan<byte> data, ReadOnlySpan<FileDescriptor> files)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        var request = new SetIrqsBody
        {
            ArgSize = (uint)(Unsafe.SizeOf<SetIrqsBody>() + data.Length),
            Flags = flags,
            Index = (uint)index,
            Start = (uint)start,
            Count = (uint)count,
        };
        _connection.Call(Command.DeviceSetIrqs, "DEVICE_SET_IRQS", MemoryMarshal.AsBytes(new ReadOnlySpan<SetIrqsBody>(in request)), data, files, [], []);
    }
}
