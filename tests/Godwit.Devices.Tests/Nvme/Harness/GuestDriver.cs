using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Devices.Tests;

/// <summary>A command as a driver composes it.</summary>
internal record struct Sqe
{
    public byte Opcode { get; set; }
    public byte Flags { get; set; }
    public uint Nsid { get; set; }
    public ulong Prp1 { get; set; }
    public ulong Prp2 { get; set; }
    public uint D10 { get; set; }
    public uint D11 { get; set; }
    public uint D12 { get; set; }
    public uint D13 { get; set; }
    public uint D14 { get; set; }
    public uint D15 { get; set; }

    public readonly void Encode(Span<byte> entry, ushort id)
    {
        entry.Clear();
        entry[0] = Opcode;
        entry[1] = Flags;
        BinaryPrimitives.WriteUInt16LittleEndian(entry[2..], id);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], Nsid);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[24..], Prp1);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[32..], Prp2);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[40..], D10);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[44..], D11);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[48..], D12);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[52..], D13);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[56..], D14);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[60..], D15);
    }
}

/// <summary>A completion as a driver reads it.</summary>
internal readonly record struct Cqe(ushort Id, NvmeStatus Status, uint Result, ushort SubmissionQueue, ushort SubmissionHead, ushort RawStatus)
{
    public bool DoNotRetry => (RawStatus & StatusField.DoNotRetry) != 0;
}

/// <summary>A queue pair from the guest's side.</summary>
internal sealed class GuestQueue(int id, ulong submissions, int submissionSize, ulong completions, int completionSize, int completionId, int vector)
{
    public int Id { get; } = id;
    public int CompletionId { get; } = completionId;
    public int Vector { get; } = vector;
    public ulong Submissions { get; } = submissions;
    public int SubmissionSize { get; } = submissionSize;
    public ulong Completions { get; } = completions;
    public int CompletionSize { get; } = completionSize;
    public int Tail { get; set; }
    public int KnownHead { get; set; }
    public int Head { get; set; }
    public bool Phase { get; set; } = true;
    public bool Full => (Tail + 1) % SubmissionSize == KnownHead;
}

/// <summary>The registers of a device, however it is reached.</summary>
internal interface IRegisters
{
    void Read(int region, ulong offset, Span<byte> destination);

    void Write(int region, ulong offset, ReadOnlySpan<byte> data);
}

/// <summary>Registers of a device in this process.</summary>
internal sealed class DirectRegisters(IVfioUserDevice device) : IRegisters
{
    public void Read(int region, ulong offset, Span<byte> destination) =>
        Assert.Equal(Errno.None, device.ReadRegion(region, offset, destination));

    public void Write(int region, ulong offset, ReadOnlySpan<byte> data) =>
        Assert.Equal(Errno.None, device.WriteRegion(region, offset, data));
}

/// <summary>A small NVMe driver: what a guest does, and nothing that it could not do. All its state survives a migration.</summary>
internal sealed class GuestDriver(GuestMemory memory, IRegisters registers, Func<long> triggerCount, Action<long> waitForTrigger)
{
    private ushort _nextId;
    private int _page = 4096;

    public GuestMemory Memory { get; } = memory;

    /// <summary>Where the device is now.</summary>
    public IRegisters Registers { get; set; } = registers;

    public Func<long> TriggerCount { get; set; } = triggerCount;

    public Action<long> WaitForTrigger { get; set; } = waitForTrigger;

    public GuestQueue Admin { get; private set; } = null!;

    public uint Read32(int offset, int region = PciRegion.Bar0)
    {
        Span<byte> bytes = stackalloc byte[4];
        Registers.Read(region, (ulong)offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    public ulong Read64(int offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        Registers.Read(PciRegion.Bar0, (ulong)offset, bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    public void Write32(int offset, uint value, int region = PciRegion.Bar0)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Registers.Write(region, (ulong)offset, bytes);
    }

    public void Write64(int offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Registers.Write(PciRegion.Bar0, (ulong)offset, bytes);
    }

    public uint Status => Read32(NvmeRegister.Status);

    /// <summary>Allocates admin queues and enables the controller, as 7.6.1 says.</summary>
    public void Enable(int entries = 32, int pageShift = 12)
    {
        int page = _page = 1 << pageShift;
        Admin = new GuestQueue(
            0, Memory.Allocate(entries * 64, page), entries, Memory.Allocate(entries * 16, page), entries, completionId: 0, vector: 0);
        Write32(NvmeRegister.AdminQueueAttributes, (uint)((entries - 1) | ((entries - 1) << 16)));
        Write64(NvmeRegister.AdminSubmissionBase, Admin.Submissions);
        Write64(NvmeRegister.AdminCompletionBase, Admin.Completions);
        Write32(NvmeRegister.Configuration, ConfigurationFor(pageShift));
    }

    public static uint ConfigurationFor(int pageShift) => 1 | ((uint)(pageShift - 12) << 7) | (6u << 16) | (4u << 20);

    /// <summary>Creates an I/O queue pair. <paramref name="shared"/>: a queue whose completion queue it shares.</summary>
    public GuestQueue CreateQueue(int id, int entries = 64, int? completionEntries = null, GuestQueue? shared = null, int? vector = null)
    {
        int size = completionEntries ?? entries;
        GuestQueue queue;
        if (shared is null)
        {
            queue = new GuestQueue(id, Memory.Allocate(entries * 64, _page), entries, Memory.Allocate(size * 16, _page), size, id, vector ?? id);
            Succeed(new Sqe
            {
                Opcode = (byte)AdminOpcode.CreateCompletionQueue,
                Prp1 = queue.Completions,
                D10 = (uint)id | ((uint)(size - 1) << 16),
                D11 = 3 | ((uint)queue.Vector << 16),
            });
        }
        else
        {
            queue = new GuestQueue(id, Memory.Allocate(entries * 64, _page), entries, shared.Completions, shared.CompletionSize, shared.Id, shared.Vector);
        }
        Succeed(new Sqe
        {
            Opcode = (byte)AdminOpcode.CreateSubmissionQueue,
            Prp1 = queue.Submissions,
            D10 = (uint)id | ((uint)(entries - 1) << 16),
            D11 = 1 | ((uint)queue.CompletionId << 16),
        });
        return queue;
    }

    /// <summary>Puts a command into a queue that is not full, without telling the device.</summary>
    public ushort Place(GuestQueue queue, Sqe command, ushort? id = null)
    {
        Assert.False(queue.Full, "the driver overran its queue");
        ushort chosen = id ?? _nextId++;
        command.Encode(Memory.Span(queue.Submissions + ((ulong)queue.Tail * 64), 64), chosen);
        queue.Tail = (queue.Tail + 1) % queue.SubmissionSize;
        return chosen;
    }

    public void RingSubmissions(GuestQueue queue) => Write32(NvmeRegister.Doorbells + (queue.Id * 8), (uint)queue.Tail);

    public void RingCompletions(GuestQueue queue) => Write32(NvmeRegister.Doorbells + (queue.CompletionId * 8) + 4, (uint)queue.Head);

    public ushort Submit(GuestQueue queue, Sqe command, ushort? id = null)
    {
        ushort chosen = Place(queue, command, id);
        RingSubmissions(queue);
        return chosen;
    }

    /// <summary>Takes the next completion if there is one; the device is not told.</summary>
    public bool TryReap(GuestQueue queue, out Cqe completion)
    {
        ulong address = queue.Completions + ((ulong)queue.Head * 16);
        ulong high;
        unsafe
        {
            high = Volatile.Read(ref *(ulong*)Memory.Pointer(address + 8));
        }
        ushort field = (ushort)(high >> 48);
        if (((field & 1) != 0) != queue.Phase)
        {
            completion = default;
            return false;
        }
        uint result = BinaryPrimitives.ReadUInt32LittleEndian(Memory.Span(address, 4));
        ushort raw = (ushort)(field >> 1);
        completion = new Cqe((ushort)(high >> 32), (NvmeStatus)(raw & 0x7FF), result, (ushort)(high >> 16), (ushort)high, raw);
        queue.Head++;
        if (queue.Head == queue.CompletionSize)
        {
            queue.Head = 0;
            queue.Phase = !queue.Phase;
        }
        if (completion.SubmissionQueue == queue.Id)
            queue.KnownHead = completion.SubmissionHead;
        return true;
    }

    /// <summary>Waits for one completion and tells the device that it was taken.</summary>
    public Cqe Wait(GuestQueue queue)
    {
        while (true)
        {
            long seen = TriggerCount();
            if (TryReap(queue, out Cqe completion))
            {
                RingCompletions(queue);
                return completion;
            }
            WaitForTrigger(seen);
        }
    }

    /// <summary>Executes one command to its completion; nothing else is in the queue.</summary>
    public Cqe Execute(GuestQueue queue, Sqe command)
    {
        ushort id = Submit(queue, command);
        Cqe completion = Wait(queue);
        Assert.Equal(id, completion.Id);
        return completion;
    }

    public Cqe Execute(Sqe admin) => Execute(Admin, admin);

    public uint Succeed(Sqe admin)
    {
        Cqe completion = Execute(Admin, admin);
        Assert.Equal(NvmeStatus.Success, completion.Status);
        return completion.Result;
    }

    public static Sqe Io(NvmOpcode opcode, ulong block, int blocks, ulong prp1 = 0, ulong prp2 = 0, uint flags = 0) => new()
    {
        Opcode = (byte)opcode,
        Nsid = 1,
        Prp1 = prp1,
        Prp2 = prp2,
        D10 = (uint)block,
        D11 = (uint)(block >> 32),
        D12 = (uint)(blocks - 1) | flags,
    };

    public static Sqe IdentifyCommand(uint kind, uint nsid, ulong prp1) =>
        new() { Opcode = (byte)AdminOpcode.Identify, Nsid = nsid, D10 = kind, Prp1 = prp1 };
}
