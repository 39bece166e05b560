using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS.</content>
internal sealed partial class Session
{
    private Errno GetIrqInfo(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        int size = Unsafe.SizeOf<IrqInfoBody>();
        if (!Wire.TryTake(body, out IrqInfoBody request, out _) || request.ArgSize < size || request.Index >= (uint)_host.Interrupts.IndexCount)
            return Errno.EINVAL;
        length = PutReply(new IrqInfoBody
        {
            ArgSize = (uint)size,
            Flags = IrqFlags.EventFd | IrqFlags.Maskable | (request.Index == PciIrq.Intx ? IrqFlags.AutoMasked : 0),
            Index = request.Index,
            Count = (uint)_host.Interrupts.VectorCount((int)request.Index),
        });
        return Errno.None;
    }

    private Errno SetIrqs(IncomingMessage message)
    {
        if (!Wire.TryTake(message.Body, out SetIrqsBody request, out ReadOnlySpan<byte> data) || request.ArgSize < Unsafe.SizeOf<SetIrqsBody>())
            return Errno.EINVAL;
        IrqSetFlags type = request.Flags & IrqSetFlags.DataTypes;
        IrqSetFlags action = request.Flags & IrqSetFlags.Actions;
        if ((request.Flags & ~(IrqSetFlags.DataTypes | IrqSetFlags.Actions)) != 0
            || !uint.IsPow2((uint)type) || !uint.IsPow2((uint)action)
            || request.Index >= (uint)_host.Interrupts.IndexCount)
        {
            return Errno.EINVAL;
        }
        uint vectors = (uint)_host.Interrupts.VectorCount((int)request.Index);
        if (request.Start > vectors || request.Count > vectors - request.Start)
            return Errno.EINVAL;
        if (type != IrqSetFlags.DataEventFd && message.FileCount != 0)
            return Errno.EINVAL;
        if (request.Count == 0)
        {
            // Only "disable the whole index" has no vectors.
            if (type != IrqSetFlags.DataNone || action != IrqSetFlags.ActionTrigger || request.Start != 0)
                return Errno.EINVAL;
            _host.Interrupts.Disable((int)request.Index);
            return Errno.None;
        }
        switch (type)
        {
            case IrqSetFlags.DataEventFd:
                return SetEventFds(message, request, action);
            case IrqSetFlags.DataBool when data.Length != request.Count:
                return Errno.EINVAL;
            default:
                for (int i = 0; i < (int)request.Count; i++)
                {
                    if (type == IrqSetFlags.DataNone || data[i] != 0)
                        Act(action, (int)request.Index, (int)request.Start + i);
                }
                return Errno.None;
        }
    }

    private Errno SetEventFds(IncomingMessage message, SetIrqsBody request, IrqSetFlags action)
    {
        int count = message.FileCount;
        if (count != 0 && count != request.Count)
            return Errno.EINVAL;
        var fds = new EventFd?[request.Count];
        for (int i = 0; i < count; i++)
        {
            using FileDescriptor file = message.TakeFile();
            if (!ReceivedEventFd.TryTake(file, out fds[i]))
            {
                foreach (EventFd? fd in fds)
                    fd?.Dispose();
                return Errno.EINVAL;
            }
        }
        Errno error = Errno.None;
        for (int i = 0; i < fds.Length; i++)
        {
            int vector = (int)request.Start + i;
            if (error != Errno.None)
                fds[i]?.Dispose();
            else if (action == IrqSetFlags.ActionTrigger)
                _host.Interrupts.Set((int)request.Index, vector, fds[i]);
            else
                error = _host.Interrupts.SetMaskEvent((int)request.Index, vector, action == IrqSetFlags.ActionMask, fds[i]);
        }
        return error;
    }

    private void Act(IrqSetFlags action, int index, int vector)
    {
        if (action == IrqSetFlags.ActionTrigger)
            _host.Interrupts.Trigger(index, vector);
        else
            _host.Interrupts.Mask(index, vector, action == IrqSetFlags.ActionMask);
    }
}
