using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>A map or unmap that was queued and that the device refused.</summary>
/// <param name="Operation">Its number among those queued since the flush before, from 0.</param>
/// <param name="Command">DMA_MAP or DMA_UNMAP.</param>
/// <param name="Range">Of what.</param>
/// <param name="Errno">Why.</param>
public readonly record struct DmaOperationFailure(int Operation, string Command, DmaRange Range, Errno Errno);

/// <summary>
/// Book-keeping of maps and unmaps that were sent without waiting. Requests belong to one of two generations; a flush turns to the
/// other and waits for the old, so that threads which go on queueing cannot hold it up for ever.
/// </summary>
internal sealed class QueuedOperations
{
    private readonly object _gate = new();
    private readonly Generation[] _generations = [new(), new()];
    private int _current;
    private bool _lost;

    /// <summary>Counts a request about to be sent; returns its generation and its number there.</summary>
    public (int Generation, int Operation) Begin()
    {
        lock (_gate)
        {
            Generation generation = _generations[_current];
            generation.Outstanding++;
            return (_current, generation.Begun++);
        }
    }

    /// <summary>Counts an answer, <paramref name="failure"/> being null when all was well.</summary>
    public void End(int generation, DmaOperationFailure? failure, bool lost)
    {
        lock (_gate)
        {
            _lost |= lost;
            if (failure is { } refused)
                _generations[generation].Failures.Add(refused);
            if (--_generations[generation].Outstanding == 0)
                Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Turns to the other generation; returns the one that holds everything begun so far. One flush at a time.</summary>
    public int Turn()
    {
        lock (_gate)
        {
            int old = _current;
            _current ^= 1;
            return old;
        }
    }

    /// <summary>Whether a generation that was turned away from has all its answers.</summary>
    public bool IsAnswered(int generation)
    {
        lock (_gate)
        {
            return _generations[generation].Outstanding == 0;
        }
    }

    /// <summary>Waits for the answers of a generation and tells what was refused. False when the connection ended instead.</summary>
    public bool Await(int generation, out IReadOnlyList<DmaOperationFailure> failures)
    {
        lock (_gate)
        {
            Generation old = _generations[generation];
            while (old.Outstanding != 0)
                Monitor.Wait(_gate);
            failures = [];
            if (old.Failures.Count != 0)
            {
                failures = old.Failures;
                old.Failures = [];
            }
            old.Begun = 0;
            return !_lost;
        }
    }

    private sealed class Generation
    {
        public List<DmaOperationFailure> Failures = [];
        public int Outstanding;
        public int Begun;
    }
}
