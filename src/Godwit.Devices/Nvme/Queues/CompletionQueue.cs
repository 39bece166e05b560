using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>
/// A completion queue (NVM Express Base 1.4, 4.1). A worker reserves a slot before it takes a command, so a command that executes can
/// always complete; with no slot free the submission queue waits here until the host moves the head. Workers share a lock that is held
/// during DMA; the message thread never takes it, since that DMA may need the message thread.
/// </summary>
internal sealed unsafe class CompletionQueue(int id, ulong address, uint size, bool interrupts, ushort vector, int queueSlots)
{
    private readonly Lock _posting = new();
    private readonly ulong[] _starved = new ulong[(queueSlots + 63) / 64];
    private uint _head;
    private uint _tail;
    private uint _shown; // the tail once the post in progress is over: the host may see its entry before we have moved the tail
    private uint _reserved;
    private bool _phase = true;

    /// <summary>Identifier; 0 is the admin queue.</summary>
    public int Id { get; } = id;

    /// <summary>Bus address of its first entry.</summary>
    public ulong Address { get; } = address;

    /// <summary>Entries.</summary>
    public uint Size { get; } = size;

    /// <summary>IEN.</summary>
    public bool Interrupts { get; } = interrupts;

    /// <summary>IV.</summary>
    public ushort Vector { get; } = vector;

    /// <summary>Submission queues that use it. Changed while the admin queue executes, or while all is quiet.</summary>
    public int Users { get; set; }

    /// <summary>First entry that the host has not consumed.</summary>
    public uint Head => Volatile.Read(ref _head);

    /// <summary>Next entry to fill.</summary>
    public uint Tail => Volatile.Read(ref _tail);

    /// <summary>Phase tag of the entry at the tail. Stable while workers are quiet.</summary>
    public bool Phase => _phase;

    /// <summary>Whether the host has entries to consume.</summary>
    public bool Pending => Head != Tail;

    /// <summary>Takes over a migrated state; both pointers are below <see cref="Size"/>.</summary>
    public void Restore(uint head, uint tail, bool phase)
    {
        _head = head;
        _tail = tail;
        _shown = tail;
        _phase = phase;
    }

    /// <summary>
    /// Reserves a slot. False: the queue is full, and <paramref name="submission"/> will be among <see cref="TakeStarved"/> once the head
    /// has moved.
    /// </summary>
    public bool TryReserve(int submission)
    {
        if (TryReserve())
            return true;
        // Full fence between the mark and the second look; MoveHead has one between the head and looking for marks. One of both sees
        // the other. A mark that stays although the second look succeeds costs one needless visit.
        Interlocked.Or(ref _starved[submission >> 6], 1UL << (submission & 63));
        return TryReserve();
    }

    /// <summary>Reserves a slot without a promise to be woken.</summary>
    public bool TryReserve()
    {
        lock (_posting)
        {
            if (Distance(Head, _tail) + _reserved >= Size - 1)
                return false;
            _reserved++;
            return true;
        }
    }

    /// <summary>Gives a reserved slot back.</summary>
    public void Unreserve()
    {
        lock (_posting)
            _reserved--;
    }

    /// <summary>Fills a reserved slot. False: the memory is not there, the entry is lost and the controller with it.</summary>
    public bool Post(IDeviceHost host, uint result, ushort head, int submission, ushort command, ushort status)
    {
        lock (_posting)
        {
            var entry = NvmeCompletion.Create(result, head, (ushort)submission, command, status, _phase);
            uint next = _tail + 1 == Size ? 0 : _tail + 1;
            Volatile.Write(ref _shown, next);
            if (!Write(host, new DmaAddress(Address + ((ulong)_tail * NvmeCompletion.Size)), entry))
                return false;
            if (next == 0)
                _phase = !_phase;
            Volatile.Write(ref _tail, next);
            _reserved--;
            return true;
        }
    }

    /// <summary>A head doorbell (message thread). False when the value is out of range or claims more entries than are there.</summary>
    public bool MoveHead(uint value)
    {
        if (value >= Size || Distance(_head, value) > Distance(_head, Volatile.Read(ref _shown)))
            return false;
        Interlocked.Exchange(ref _head, value);
        return true;
    }

    /// <summary>Number of words for <see cref="TakeStarved"/>.</summary>
    public int StarvedWords => _starved.Length;

    /// <summary>Submission queues 64*<paramref name="word"/> and up that wait for a slot; forgets them.</summary>
    public ulong TakeStarved(int word) => Volatile.Read(ref _starved[word]) == 0 ? 0 : Interlocked.Exchange(ref _starved[word], 0);

    /// <summary>Writes so that a host that sees the new phase tag sees the rest: the word with the tag goes last.</summary>
    private static bool Write(IDeviceHost host, DmaAddress address, NvmeCompletion entry)
    {
        if (host.TryAcquire(address, NvmeCompletion.Size, forWrite: true, out DmaPiece piece))
        {
            using (piece)
            {
                if (piece.Length >= NvmeCompletion.Size)
                {
                    // SAFETY: the piece has 16 bytes and is pinned until disposed.
                    ((ulong*)piece.Pointer)[0] = entry.Low;
                    Volatile.Write(ref ((ulong*)piece.Pointer)[1], entry.High);
                    return true;
                }
            }
        }
        Span<byte> bytes = stackalloc byte[NvmeCompletion.Size];
        BitConverter.TryWriteBytes(bytes, entry.Low);
        BitConverter.TryWriteBytes(bytes[8..], entry.High);
        return host.Write(address, bytes);
    }

    private uint Distance(uint from, uint to) => to >= from ? to - from : to + Size - from;
}
