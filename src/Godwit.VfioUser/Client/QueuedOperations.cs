namespace Godwit.VfioUser;

/// <summary>
/// Book-keeping of maps and unmaps that were sent without waiting. Requests belong to one of two generations; a flush turns to the
/// other and waits for the old, so that threads which go on queueing cannot hold it up for ever.
/// </summary>
internal sealed class QueuedOperations
{
    /// <summary>Failures kept for the flush's exception; further ones are only counted.</summary>
    private const int MaxKept = 16;

    private readonly Lock _flushing = new();
    private readonly object _gate = new();
    private readonly int[] _outstanding = new int[2];
    private readonly List<VfioUserRemoteException> _failures = [];
    private int _failureCount;
    private int _generation;
    private bool _lost;

    /// <summary>Counts a request about to be sent; returns its generation.</summary>
    public int Begin()
    {
        lock (_gate)
        {
            _outstanding[_generation]++;
            return _generation;
        }
    }

    /// <summary>Counts an answer, <paramref name="failure"/> being null when all was well.</summary>
    public void End(int generation, VfioUserRemoteException? failure, bool lost)
    {
        lock (_gate)
        {
            _lost |= lost;
            if (failure is not null)
            {
                _failureCount++;
                if (_failures.Count < MaxKept)
                    _failures.Add(failure);
            }
            if (--_outstanding[generation] == 0)
                Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Waits for everything begun before this call. False when the connection ended instead.</summary>
    /// <exception cref="VfioUserRemoteException">The peer refused some; the first is named, all kept ones are inside.</exception>
    public bool Flush()
    {
        lock (_flushing)
        {
            lock (_gate)
            {
                int old = _generation;
                _generation ^= 1;
                while (_outstanding[old] != 0)
                    Monitor.Wait(_gate);
                if (_lost)
                    return false;
                if (_failureCount == 0)
                    return true;
                VfioUserRemoteException first = _failures[0];
                var exception = _failureCount == 1
                    ? first
                    : new VfioUserRemoteException(first.Command, first.Errno, $"the first of {_failureCount} refused", new AggregateException(_failures.ToArray()));
                _failureCount = 0;
                _failures.Clear();
                throw exception;
            }
        }
    }
}
