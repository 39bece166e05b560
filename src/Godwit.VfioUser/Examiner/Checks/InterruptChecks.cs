using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Interrupts (specification, DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS).</summary>
internal static class InterruptChecks
{
    private const IrqSetFlags SetFds = IrqSetFlags.DataEventFd | IrqSetFlags.ActionTrigger;
    private const IrqSetFlags Fire = IrqSetFlags.DataNone | IrqSetFlags.ActionTrigger;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("irq.info", "every interrupt index answers with itself and at most 2048 vectors; one beyond the last is refused", static e =>
        {
            uint count = e.Info().Irqs;
            for (int i = 0; i < (int)count; i++)
            {
                IrqInfoBody irq = e.Irq(i);
                Examination.Require(irq.Index == i, $"index {i} says it is {irq.Index}");
                Examination.Require(irq.Count <= WireLimits.MaxVectors, $"index {i} has {irq.Count} vectors");
            }
            e.Refused(Command.DeviceGetIrqInfo, $"index {count} of {count}", ExaminerPeer.Bytes(new IrqInfoBody { ArgSize = 16, Index = count }));
        }),
        new("irq.trigger", "a trigger by message signals exactly the eventfd of its vector", static e => EachIndex(e, static (e, index, count) =>
        {
            using var fds = new EventFds(e, index, count);
            Get(e, Fire, index, count - 1, 1);
            fds.Expect(count - 1, 1, "after a trigger of it");
            if (count > 1)
                fds.Expect(0, 0, "after a trigger of another");
        })),
        new("irq.trigger-some", "a trigger with a list of yes and no signals those with yes", static e => EachIndex(e, static (e, index, count) =>
        {
            using var fds = new EventFds(e, index, count);
            byte[] which = [.. Enumerable.Range(0, count).Select(i => (byte)(i == count - 1 ? 1 : 0))];
            e.Get(Command.DeviceSetIrqs, "DATA_BOOL", Request(IrqSetFlags.DataBool | IrqSetFlags.ActionTrigger, index, 0, (uint)count, which));
            fds.Expect(count - 1, 1, "after a trigger with 1");
            if (count > 1)
                fds.Expect(0, 0, "after a trigger with 0");
        })),
        new("irq.take-away", "an eventfd that is taken away, alone or with its whole index, is signalled no more", static e => EachIndex(e, static (e, index, count) =>
        {
            using var fds = new EventFds(e, index, count);
            Get(e, SetFds, index, 0, 1); // no descriptor comes along
            Get(e, Fire, index, 0, 1);
            fds.Expect(0, 0, "after it was taken away");
            fds.Assign();
            Get(e, Fire, index, 0, 0); // the whole index
            e.Try(Command.DeviceSetIrqs, Request(Fire, index, 0, 1));
            fds.Expect(0, 0, "after its index was disabled");
        })),
        new("irq.mask", "a masked vector is not signalled; unmasked it tells what came meanwhile", static e =>
        {
            bool any = false;
            EachIndex(e, (e, index, count) =>
            {
                if ((e.Irq(index).Flags & IrqFlags.Maskable) == 0)
                    return;
                any = true;
                using var fds = new EventFds(e, index, count);
                Get(e, IrqSetFlags.DataNone | IrqSetFlags.ActionMask, index, 0, 1);
                Get(e, Fire, index, 0, 1);
                fds.Expect(0, 0, "while masked");
                Get(e, IrqSetFlags.DataNone | IrqSetFlags.ActionUnmask, index, 0, 1);
                fds.Expect(0, 1, "when unmasked after a trigger");
            });
            if (!any)
                throw Examination.Absent("no index says it can be masked");
        }),
        new("irq.bounds", "vectors beyond the last, no or two actions, no or two kinds of data, and a wrong number of descriptors are refused", static e => EachIndex(e, static (e, index, count) =>
        {
            uint vectors = (uint)count;
            Refused(e, Fire, index, vectors, 1);
            Refused(e, Fire, index, 0, e.Irq(index).Count + 1);
            Refused(e, Fire, index, 1, uint.MaxValue);
            Refused(e, IrqSetFlags.DataNone, index, 0, 1);
            Refused(e, Fire | IrqSetFlags.ActionMask, index, 0, 1);
            Refused(e, IrqSetFlags.ActionTrigger, index, 0, 1);
            Refused(e, Fire | IrqSetFlags.DataBool, index, 0, 1);
            using EventFd fd = EventFd.Create();
            e.Refused(Command.DeviceSetIrqs, "two descriptors for one vector", Request(SetFds, index, 0, 1), fd, fd);
        }, all: true)),
    ];

    /// <summary>Goes with an eventfd assigned: whoever comes next must not reach it. Nothing to see without interrupts.</summary>
    public static void LeaveBehind(Examination e)
    {
        for (int index = PciIrq.Intx; index <= PciIrq.Msix; index++)
        {
            if (e.Irq(index).Count == 0)
                continue;
            using var fds = new EventFds(e, index, 1);
            e.Disconnect();
            e.Try(Command.DeviceSetIrqs, Request(Fire, index, 0, 1));
            fds.Expect(0, 0, "after its client had gone");
        }
    }

    private static byte[] Request(IrqSetFlags flags, int index, uint start, uint count, ReadOnlySpan<byte> data = default) => ExaminerPeer.Bytes(
        new SetIrqsBody { ArgSize = (uint)(20 + data.Length), Flags = flags, Index = (uint)index, Start = start, Count = count }, data);

    private static void Get(Examination e, IrqSetFlags flags, int index, int start, int count) =>
        e.Get(Command.DeviceSetIrqs, $"DEVICE_SET_IRQS {flags} of index {index}", Request(flags, index, (uint)start, (uint)count));

    private static void Refused(Examination e, IrqSetFlags flags, int index, uint start, uint count) => e.Refused(
        Command.DeviceSetIrqs, $"DEVICE_SET_IRQS {flags} of {count} vectors from {start} of index {index}", Request(flags, index, start, count));

    /// <summary>Those of INTx, MSI and MSI-X that have vectors; of many vectors the first few.</summary>
    private static void EachIndex(Examination e, Action<Examination, int, int> body, bool all = false)
    {
        bool any = false;
        for (int index = PciIrq.Intx; index <= PciIrq.Msix; index++)
        {
            uint count = e.Irq(index).Count;
            if (count == 0)
                continue;
            any = true;
            body(e, index, all ? (int)count : (int)Math.Min(count, 8));
        }
        if (!any)
            throw Examination.Absent("the device has no interrupts");
    }

    /// <summary>An eventfd for each of the first vectors of an index, assigned one message each: every device takes one descriptor.</summary>
    private sealed class EventFds : IDisposable
    {
        private readonly Examination _examination;
        private readonly int _index;
        private readonly EventFd[] _fds;

        public EventFds(Examination examination, int index, int count)
        {
            _examination = examination;
            _index = index;
            _fds = [.. Enumerable.Range(0, count).Select(_ => EventFd.Create())];
            Assign();
            foreach (EventFd fd in _fds)
                fd.Drain(); // a level that was asserted
        }

        public void Assign()
        {
            for (int i = 0; i < _fds.Length; i++)
                _examination.Get(Command.DeviceSetIrqs, $"an eventfd for vector {i} of index {_index}", Request(SetFds, _index, (uint)i, 1), _fds[i]);
        }

        public void Expect(int vector, ulong signals, string when)
        {
            ulong seen = _fds[vector].Drain();
            Examination.Require(seen == signals, $"vector {vector} of index {_index} was signalled {seen} times {when}");
        }

        public void Dispose()
        {
            foreach (EventFd fd in _fds)
                fd.Dispose();
        }
    }
}
