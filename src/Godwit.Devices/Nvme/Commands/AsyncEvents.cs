namespace Godwit.Devices;

/// <summary>
/// Held Async Event Requests and the events that wait for one (NVM Express Base 1.4, 5.2). An event type that has been reported stays
/// masked until the host reads its log page; events meanwhile wait, equal ones as one. Thread-safe.
/// </summary>
internal sealed class AsyncEvents
{
    /// <summary>Most events that wait; later ones are dropped, since the log page tells all.</summary>
    public const int PendingLimit = 8;

    private readonly Lock _gate = new();
    private readonly ushort[] _held = new ushort[IdentifyData.AsyncEventLimit];
    private readonly uint[] _pending = new uint[PendingLimit];
    private int _heldCount;
    private int _pendingCount;
    private byte _masked;

    /// <summary>Composes dword 0 of the completion.</summary>
    public static uint Compose(AsyncEventType type, byte information, NvmeLogPage log) =>
        (uint)type | ((uint)information << 8) | ((uint)log << 16);

    /// <summary>Records an event. True when a request could now be completed.</summary>
    public bool Raise(uint value)
    {
        lock (_gate)
        {
            if (_pendingCount < PendingLimit && !_pending.AsSpan(0, _pendingCount).Contains(value))
                _pending[_pendingCount++] = value;
            return FindDeliverable() >= 0;
        }
    }

    /// <summary>Holds a request.</summary>
    public NvmeStatus Hold(ushort command)
    {
        lock (_gate)
        {
            if (_held.AsSpan(0, _heldCount).Contains(command))
                return NvmeStatus.CommandIdConflict;
            if (_heldCount == _held.Length)
                return NvmeStatus.AsyncEventLimitExceeded;
            _held[_heldCount++] = command;
            return NvmeStatus.Success;
        }
    }

    /// <summary>Whether <see cref="TryTake"/> would succeed.</summary>
    public bool Deliverable
    {
        get
        {
            lock (_gate)
                return FindDeliverable() >= 0;
        }
    }

    /// <summary>Takes the oldest request and the oldest event that may be reported, and masks its type.</summary>
    public bool TryTake(out ushort command, out uint value)
    {
        lock (_gate)
        {
            int index = FindDeliverable();
            if (index < 0)
            {
                (command, value) = (0, 0);
                return false;
            }
            command = _held[0];
            Remove(_held, 0, ref _heldCount);
            value = _pending[index];
            Remove(_pending, index, ref _pendingCount);
            _masked |= (byte)(1 << (int)(value & 7));
            return true;
        }
    }

    /// <summary>Gives up a held request. False when there is none with this id.</summary>
    public bool Abort(ushort command)
    {
        lock (_gate)
        {
            int index = _held.AsSpan(0, _heldCount).IndexOf(command);
            if (index < 0)
                return false;
            Remove(_held, index, ref _heldCount);
            return true;
        }
    }

    /// <summary>The host has read the log of events of <paramref name="type"/> and may be told of new ones.</summary>
    public void Unmask(AsyncEventType type)
    {
        lock (_gate)
            _masked &= (byte)~(1 << (int)type);
    }

    /// <summary>Forgets everything.</summary>
    public void Reset()
    {
        lock (_gate)
            (_heldCount, _pendingCount, _masked) = (0, 0, 0);
    }

    /// <summary>Copies everything out, for migration. Workers are quiet.</summary>
    public AsyncEventState Capture()
    {
        lock (_gate)
            return new AsyncEventState(_held[.._heldCount], _pending[.._pendingCount], _masked);
    }

    /// <summary>Takes over a validated state.</summary>
    public void Restore(AsyncEventState state)
    {
        lock (_gate)
        {
            _heldCount = state.Held.Length;
            state.Held.CopyTo(_held, 0);
            _pendingCount = state.Pending.Length;
            state.Pending.CopyTo(_pending, 0);
            _masked = state.Masked;
        }
    }

    private int FindDeliverable()
    {
        if (_heldCount == 0)
            return -1;
        for (int i = 0; i < _pendingCount; i++)
        {
            if ((_masked & (1 << (int)(_pending[i] & 7))) == 0)
                return i;
        }
        return -1;
    }

    private static void Remove<T>(T[] items, int index, ref int count)
    {
        items.AsSpan(index + 1, count - index - 1).CopyTo(items.AsSpan(index));
        count--;
    }
}

/// <summary>Async events as they migrate.</summary>
/// <param name="Held">Command ids of held requests, oldest first.</param>
/// <param name="Pending">Events that wait, oldest first.</param>
/// <param name="Masked">One bit for each event type.</param>
internal sealed record AsyncEventState(ushort[] Held, uint[] Pending, byte Masked);
