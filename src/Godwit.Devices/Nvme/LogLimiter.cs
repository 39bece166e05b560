using System.Numerics;

namespace Godwit.Devices;

/// <summary>
/// Passes lines on to an operator's log, but not as many as a hostile guest or a broken disk can cause: of each kind the first eight, then
/// those whose ordinal is a power of two, with the count.
/// </summary>
internal sealed class LogLimiter(Action<string>? log)
{
    private const long Unlimited = 8;

    private readonly long[] _seen = new long[Enum.GetValues<LogKind>().Length];

    /// <summary>A rare event: always passed on.</summary>
    public void Write(string line) => log?.Invoke(line);

    /// <summary>Whether the next line of <paramref name="kind"/> is worth composing; <paramref name="ordinal"/> counts from 1.</summary>
    public bool Admit(LogKind kind, out long ordinal)
    {
        ordinal = Interlocked.Increment(ref _seen[(int)kind]);
        return log is not null && (ordinal <= Unlimited || BitOperations.IsPow2(ordinal));
    }

    /// <summary>Writes an admitted line.</summary>
    public void WriteAdmitted(string line, long ordinal) =>
        log?.Invoke(ordinal <= Unlimited ? line : $"{line} (number {ordinal} of its kind)");
}

/// <summary>Kinds of lines that are limited.</summary>
internal enum LogKind
{
    ImageError,
    DmaError,
    Doorbell,
    Fatal,
}
