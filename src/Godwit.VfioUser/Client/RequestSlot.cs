using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The place where one request waits for its reply. Reused, so that a request allocates nothing. Only who receives completes a
/// slot, also when the connection ends: until then the memory that the slot points to stays valid and may be written.
/// </summary>
internal sealed unsafe class RequestSlot(int index)
{
    /// <summary>Low bits of the message id are the slot, the rest counts its uses, so that an answer given twice is noticed.</summary>
    public const int IndexBits = 10;

    /// <summary>Slots, and so requests under way at once.</summary>
    public const int Count = 1 << IndexBits;

    /// <summary>Room for the fixed part of every reply that has one.</summary>
    public const int HeadCapacity = 64;

    private const int Free = 0;
    private const int Pending = 1;
    private const int Done = 2;

    /// <summary>Spins before a waiter sleeps: a device on another core may answer within the cost of a sleep.</summary>
    private const int SpinsBeforeSleep = 20;

    private readonly object _wake = new();
    private readonly byte[] _head = new byte[HeadCapacity];
    private volatile int _state;
    private int _uses;

    /// <summary>Which slot.</summary>
    public int Index { get; } = index;

    /// <summary>Id of the request that waits here.</summary>
    public ushort Id => (ushort)((_uses << IndexBits) | Index);

    /// <summary>What was asked.</summary>
    public Command Command { get; private set; }

    /// <summary>Bytes of the reply that go to <see cref="Head"/> before the rest goes to the caller's memory.</summary>
    public int HeadSize { get; private set; }

    /// <summary>Where the rest of a reply goes.</summary>
    public byte* Data { get; private set; }

    /// <summary>How much of it fits.</summary>
    public int DataCapacity { get; private set; }

    /// <summary>When the request was made, in the connection's time for answers.</summary>
    public TimeSpan StartedAt { get; private set; }

    /// <summary>A queued map or unmap: nobody waits for the slot, its range, generation and number stand here.</summary>
    public bool IsQueued { get; private set; }

    /// <inheritdoc cref="IsQueued"/>
    public DmaRange QueuedRange { get; private set; }

    /// <inheritdoc cref="IsQueued"/>
    public int QueuedGeneration { get; private set; }

    /// <inheritdoc cref="IsQueued"/>
    public int QueuedOperation { get; private set; }

    /// <summary>Fixed part of the reply.</summary>
    public Span<byte> Head => _head;

    /// <summary>Bytes of the reply's body.</summary>
    public int ReplyLength { get; private set; }

    /// <summary>What the peer answered.</summary>
    public Errno Error { get; private set; }

    /// <summary>The connection ended instead.</summary>
    public bool Lost { get; private set; }

    /// <summary>Takes the descriptors that come with the reply; null when none are wanted.</summary>
    public List<FileDescriptor>? Files { get; private set; }

    /// <summary>Whether the reply is in place, or will never be.</summary>
    public bool IsDone => _state == Done;

    /// <summary>Whether a reply is awaited here.</summary>
    public bool IsPending => _state == Pending;

    /// <summary>Makes the slot ready for a request of which the caller waits for the reply.</summary>
    public void Prepare(Command command, int headSize, byte* data, int dataCapacity, List<FileDescriptor>? files, TimeSpan now)
    {
        Command = command;
        HeadSize = headSize;
        Data = data;
        DataCapacity = dataCapacity;
        Files = files;
        StartedAt = now;
        IsQueued = false;
        Reset();
    }

    /// <summary>Makes the slot ready for a request that nobody waits for.</summary>
    public void PrepareQueued(Command command, int headSize, DmaRange range, int generation, int operation, TimeSpan now)
    {
        Command = command;
        HeadSize = headSize;
        Data = null;
        DataCapacity = 0;
        Files = null;
        StartedAt = now;
        IsQueued = true;
        QueuedRange = range;
        QueuedGeneration = generation;
        QueuedOperation = operation;
        Reset();
    }

    /// <summary>Called by who receives: the reply is in place, or the connection is lost.</summary>
    public void Complete(Errno error, int replyLength, bool lost)
    {
        Error = error;
        ReplyLength = replyLength;
        Lost = lost;
        lock (_wake)
        {
            _state = Done;
            Monitor.Pulse(_wake);
        }
    }

    /// <summary>Waits until the slot is complete.</summary>
    public void Wait()
    {
        var spinner = default(SpinWait);
        for (int i = 0; i < SpinsBeforeSleep && _state != Done; i++)
            spinner.SpinOnce(sleep1Threshold: -1);
        if (_state == Done)
            return;
        lock (_wake)
        {
            while (_state != Done)
                Monitor.Wait(_wake);
        }
    }

    /// <summary>Forgets the request.</summary>
    public void Release()
    {
        Files = null;
        Data = null;
        _state = Free;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Reset()
    {
        _uses++;
        ReplyLength = 0;
        Error = Errno.None;
        Lost = false;
        _state = Pending; // last: volatile, publishes the fields above to who receives
    }
}
