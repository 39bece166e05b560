namespace Godwit.Devices;

/// <summary>
/// The queues by identifier. The worker that executes admin commands and the message thread (while workers are quiet) change it; the
/// message thread looks queues up for doorbells meanwhile.
/// </summary>
internal sealed class QueueTable(NvmeLimits limits)
{
    private readonly SubmissionQueue?[] _submissions = new SubmissionQueue?[limits.QueueSlots];
    private readonly CompletionQueue?[] _completions = new CompletionQueue?[limits.QueueSlots];

    /// <summary>Slots, the admin pair included.</summary>
    public int Slots => _submissions.Length;

    /// <summary>Whether any I/O queue exists.</summary>
    public bool HasIoQueues => _submissions.AsSpan(1).ContainsAnyExcept((SubmissionQueue?)null) || _completions.AsSpan(1).ContainsAnyExcept((CompletionQueue?)null);

    /// <summary>The submission queue <paramref name="id"/>, or null when there is none or the number is out of range.</summary>
    public SubmissionQueue? Submission(uint id) => id < (uint)_submissions.Length ? Volatile.Read(ref _submissions[id]) : null;

    /// <summary>The completion queue <paramref name="id"/>, or null.</summary>
    public CompletionQueue? Completion(uint id) => id < (uint)_completions.Length ? Volatile.Read(ref _completions[id]) : null;

    /// <summary>Creates a completion queue in a free slot.</summary>
    public CompletionQueue AddCompletion(int id, ulong address, uint size, bool interrupts, ushort vector)
    {
        var queue = new CompletionQueue(id, address, size, interrupts, vector, Slots);
        Volatile.Write(ref _completions[id], queue);
        return queue;
    }

    /// <summary>Creates a submission queue in a free slot.</summary>
    public SubmissionQueue AddSubmission(int id, ulong address, uint size, byte priority, CompletionQueue completion)
    {
        var queue = new SubmissionQueue(id, address, size, priority, completion);
        completion.Users++;
        Volatile.Write(ref _submissions[id], queue);
        return queue;
    }

    /// <summary>Removes a completion queue without users.</summary>
    public void Remove(CompletionQueue queue) => Volatile.Write(ref _completions[queue.Id], null);

    /// <summary>Removes a submission queue that the scheduler has retired.</summary>
    public void Remove(SubmissionQueue queue)
    {
        Volatile.Write(ref _submissions[queue.Id], null);
        queue.Completion.Users--;
    }

    /// <summary>Removes all. Workers are quiet.</summary>
    public void Clear()
    {
        Array.Clear(_submissions);
        Array.Clear(_completions);
    }
}
