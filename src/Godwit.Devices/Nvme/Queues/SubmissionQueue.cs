namespace Godwit.Devices;

/// <summary>Where a submission queue is in the scheduler's hands. Guarded by the scheduler.</summary>
internal enum QueuePhase
{
    /// <summary>Nothing known to do.</summary>
    Idle,

    /// <summary>Waits for a worker.</summary>
    Queued,

    /// <summary>A worker has it.</summary>
    Running,

    /// <summary>A worker has it, and something came meanwhile.</summary>
    RunningAgain,
}

/// <summary>
/// A submission queue (NVM Express Base 1.4, 4.1). The message thread moves the tail, the one worker that has the queue moves the head.
/// A command counts as taken once the head has passed it, which happens together with its completion; so what lies between head and tail
/// is exactly what has not been executed.
/// </summary>
internal sealed class SubmissionQueue(int id, ulong address, uint size, byte priority, CompletionQueue completion)
{
    private uint _head;
    private uint _tail;
    private volatile bool _retired;

    /// <summary>Identifier; 0 is the admin queue.</summary>
    public int Id { get; } = id;

    /// <summary>Bus address of its first entry.</summary>
    public ulong Address { get; } = address;

    /// <summary>Entries.</summary>
    public uint Size { get; } = size;

    /// <summary>QPRIO, kept for migration; arbitration is round robin.</summary>
    public byte Priority { get; } = priority;

    /// <summary>Where its completions go.</summary>
    public CompletionQueue Completion { get; } = completion;

    /// <summary>Guarded by the scheduler.</summary>
    public QueuePhase Phase { get; set; }

    /// <summary>Next entry to take.</summary>
    public uint Head => Volatile.Read(ref _head);

    /// <summary>First entry that the host has not filled.</summary>
    public uint Tail => Volatile.Read(ref _tail);

    /// <summary>Deleted: nothing more is taken from it.</summary>
    public bool Retired
    {
        get => _retired;
        set => _retired = value;
    }

    /// <summary>Takes over both pointers from a migrated state; both are below <see cref="Size"/>.</summary>
    public void Restore(uint head, uint tail)
    {
        _head = head;
        _tail = tail;
    }

    /// <summary>Passes the entry at the head. Worker only.</summary>
    public void Advance() => Volatile.Write(ref _head, _head + 1 == Size ? 0 : _head + 1);

    /// <summary>A tail doorbell. False when the value is out of range or claims more entries than are free.</summary>
    public bool MoveTail(uint value)
    {
        if (value >= Size)
            return false;
        uint added = Distance(_tail, value);
        uint free = Size - 1 - Distance(Head, _tail);
        if (added > free)
            return false;
        Volatile.Write(ref _tail, value);
        return true;
    }

    private uint Distance(uint from, uint to) => to >= from ? to - from : to + Size - from;
}
