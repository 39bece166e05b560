namespace Godwit.Cli;

/// <summary>What was seen of a migration at one moment.</summary>
/// <param name="At">Since its start.</param>
/// <param name="Sent">Bytes per second since the sample before.</param>
/// <param name="Remaining">Bytes of RAM that have to be sent.</param>
/// <param name="Round">The round then.</param>
/// <param name="View">All of it.</param>
internal readonly record struct TraceSample(TimeSpan At, double Sent, long Remaining, long Round, MigrationView View);

/// <summary>
/// A migration as it was followed, for its report. Holds at most <see cref="Limit"/> samples however long it takes: when it is full, every
/// second one goes and the distance of the following ones doubles.
/// </summary>
internal sealed class MigrationTrace
{
    /// <summary>Most samples; twice what a chart can show.</summary>
    public const int Limit = 2048;

    private readonly List<TraceSample> _samples = [];
    private TimeSpan _distance;
    private long _bytes;

    /// <summary>In the order of time.</summary>
    public IReadOnlyList<TraceSample> Samples => _samples;

    /// <summary>Takes what was seen, unless it is too close to what it has.</summary>
    public void Add(MigrationView view)
    {
        if (!view.Running)
            return;
        long bytes = view.RamTransferred + view.DeviceStateBytes + view.MachineStateBytes + view.OverheadBytes;
        TimeSpan before = _samples.Count == 0 ? TimeSpan.Zero : _samples[^1].At;
        TimeSpan elapsed = view.TotalTime - before;
        if (_samples.Count > 0 && (elapsed <= TimeSpan.Zero || elapsed < _distance))
            return;
        double sent = elapsed > TimeSpan.Zero ? Math.Max(0, bytes - _bytes) / elapsed.TotalSeconds : 0;
        _bytes = bytes;
        _samples.Add(new TraceSample(view.TotalTime, sent, view.RamRemaining, view.Rounds, view));
        if (_samples.Count >= Limit)
            Thin();
    }

    private void Thin()
    {
        for (int i = 0; i < _samples.Count / 2; i++)
        {
            TraceSample first = _samples[2 * i], second = _samples[(2 * i) + 1];
            TimeSpan begin = i == 0 ? TimeSpan.Zero : _samples[i - 1].At;
            // Bytes are kept: the mean over both of their times.
            double bytes = (first.Sent * (first.At - begin).TotalSeconds) + (second.Sent * (second.At - first.At).TotalSeconds);
            double seconds = (second.At - begin).TotalSeconds;
            _samples[i] = second with { Sent = seconds > 0 ? bytes / seconds : 0 };
        }

        _samples.RemoveRange(_samples.Count / 2, _samples.Count - (_samples.Count / 2));
        _distance = (_samples[^1].At - _samples[0].At) / (_samples.Count - 1);
    }
}
