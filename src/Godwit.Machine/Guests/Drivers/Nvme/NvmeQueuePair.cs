using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>One submission queue with its completion queue (NVM Express 1.4, 4.1), the driver's side of both.</summary>
internal struct NvmeQueuePair
{
    public Gpa Submission;
    public Gpa Completion;
    public Gpa Doorbell;
    public ulong DoorbellStride;
    public uint Entries;
    public uint Tail;
    public uint Head;
    public uint Phase;

    /// <summary>Doorbells of queue <paramref name="id"/> (3.1.25, 3.1.26).</summary>
    public static NvmeQueuePair Create(Gpa submission, Gpa completion, Gpa registers, ulong capabilities, uint id, uint entries)
    {
        ulong stride = 4UL << (int)((capabilities >> NvmeRegisters.CapDoorbellStrideShift) & 0xF);
        return new NvmeQueuePair
        {
            Submission = submission,
            Completion = completion,
            Doorbell = registers + NvmeRegisters.Doorbells + (2 * id * stride),
            DoorbellStride = stride,
            Entries = entries,
            Phase = 1,
        };
    }

    /// <summary>Queues a command; the device learns of it with <see cref="Ring"/>. The caller keeps fewer in flight than entries.</summary>
    public void Submit(GuestBus bus, in NvmeCommand command)
    {
        if (Tail >= Entries)
            throw new GuestPanicException($"submission queue tail {Tail} of {Entries} entries");
        bus.Store(Submission + (Tail * (ulong)NvmeRegisters.SubmissionEntrySize), command);
        Tail = Tail + 1 == Entries ? 0 : Tail + 1;
    }

    public readonly void Ring(GuestCpu cpu) => cpu.WriteMmio32(Doorbell, Tail);

    /// <summary>Whether the device has posted an entry that has not been taken.</summary>
    public readonly bool HasCompletion(GuestBus bus) => Entries > Head
        && ((bus.LoadAcquire32(Completion + (Head * (ulong)NvmeRegisters.CompletionEntrySize) + NvmeRegisters.CompletionStatusDword) >> 16) & 1) == Phase;

    /// <summary>Takes the next completion; the device learns of it with <see cref="Release"/>.</summary>
    public bool TryTake(GuestBus bus, out ushort id, out ushort status, out uint result)
    {
        id = status = 0;
        result = 0;
        if (Head >= Entries)
            throw new GuestPanicException($"completion queue head {Head} of {Entries} entries");
        Gpa entry = Completion + (Head * (ulong)NvmeRegisters.CompletionEntrySize);
        uint last = bus.LoadAcquire32(entry + NvmeRegisters.CompletionStatusDword);
        if (((last >> 16) & 1) != Phase)
            return false;
        id = (ushort)last;
        status = (ushort)(last >> 17);
        result = bus.Load<uint>(entry);
        if (++Head == Entries)
        {
            Head = 0;
            Phase ^= 1;
        }

        return true;
    }

    public readonly void Release(GuestCpu cpu) => cpu.WriteMmio32(Doorbell + DoorbellStride, Head);
}
