using System.Buffers;

namespace Godwit.VfioUser;

/// <summary>A command from the device, its body in a rented buffer.</summary>
internal readonly record struct DmaJob(MessageHeader Header, byte[] Buffer, int Length)
{
    public Span<byte> Body => Buffer.AsSpan(0, Length);
}

/// <summary>
/// Answers the device's commands on a thread of its own: a handler may need a lock that is held by a thread waiting for a reply, and
/// replies come in on the receive thread.
/// </summary>
internal sealed class DmaMessageWorker(ClientConnection connection, DmaAnswers answers)
{
    /// <summary>Bodies waiting at most. A device that sends more without waiting for answers is not read from for a while.</summary>
    private const int MaxQueuedBytes = 8 * 1024 * 1024;

    /// <summary>Commands waiting at most, for the same reason.</summary>
    private const int MaxQueued = 1024;

    private readonly object _gate = new();
    private readonly Queue<DmaJob> _jobs = new();
    private int _queuedBytes;
    private Thread? _thread;
    private bool _stopped;

    /// <summary>Rents room for a body of <paramref name="length"/> bytes, which the caller has bounded.</summary>
#pragma warning disable CA1822 // reads as part of the life of a job
    public DmaJob Prepare(MessageHeader header, int length) => new(header, ArrayPool<byte>.Shared.Rent(length), length);

    /// <summary>Gives a job's buffer back.</summary>
    public void Discard(DmaJob job) => ArrayPool<byte>.Shared.Return(job.Buffer);
#pragma warning restore CA1822

    /// <summary>Hands a job over; waits while too much is queued.</summary>
    public void Enqueue(DmaJob job)
    {
        lock (_gate)
        {
            while (!_stopped && (_jobs.Count >= MaxQueued || (_queuedBytes > 0 && _queuedBytes + job.Length > MaxQueuedBytes)))
                Monitor.Wait(_gate);
            if (_stopped)
            {
                Discard(job);
                return;
            }
            _jobs.Enqueue(job);
            _queuedBytes += job.Length;
            if (_thread is null)
            {
                _thread = new Thread(Run) { IsBackground = true, Name = "vfio-user dma" };
                _thread.Start();
            }
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Ends the thread after the job in hand and drops the rest.</summary>
    public void Stop()
    {
        lock (_gate)
        {
            _stopped = true;
            while (_jobs.TryDequeue(out DmaJob job))
                Discard(job);
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Waits for the thread, unless it is the caller's.</summary>
    public void Join()
    {
        Thread? thread;
        lock (_gate)
            thread = _thread;
        if (thread is not null && thread != Thread.CurrentThread)
            thread.Join();
    }

    private void Run()
    {
        while (TryDequeue(out DmaJob job))
        {
            try
            {
                answers.Answer(job.Header, job.Body, connection);
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                // The handler is the VMM's code: its fault is not the device's, but the device cannot go on without an answer.
                connection.Fail($"answering {job.Header.Command.Name()} failed: {e.Message}");
                return;
            }
            finally
            {
                Discard(job);
            }
        }
    }

    private bool TryDequeue(out DmaJob job)
    {
        lock (_gate)
        {
            while (!_stopped && _jobs.Count == 0)
                Monitor.Wait(_gate);
            if (_stopped)
            {
                job = default;
                return false;
            }
            job = _jobs.Dequeue();
            _queuedBytes -= job.Length;
            Monitor.PulseAll(_gate);
            return true;
        }
    }
}
