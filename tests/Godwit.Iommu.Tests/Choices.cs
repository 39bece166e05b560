using System.Diagnostics;

namespace Godwit.Iommu.Tests;

/// <summary>
/// The random choices of a run, in the order in which it made them, by step. A run can be repeated with other choices, or fewer, so that one that
/// fails is reduced to the least that still does.
/// </summary>
internal sealed class Choices : Random
{
    private readonly Random? _source;
    private readonly List<List<long>> _steps = [[]];
    private readonly long[] _given;
    private int _next;

    /// <summary>New ones.</summary>
    internal Choices(int seed) => (_source, _given) = (new Random(seed), []);

    /// <summary>Those of <paramref name="steps"/>, and 0 when they are used up.</summary>
    private Choices(IEnumerable<List<long>> steps) => _given = [.. steps.SelectMany(step => step)];

    /// <summary>What is repeated is used up.</summary>
    internal bool AtEnd => _source is null && _next >= _given.Length;

    /// <summary>Choices made.</summary>
    internal int Count => _steps.Sum(step => step.Count);

    /// <summary>What the run did, for a reader.</summary>
    internal List<string> Notes { get; } = [];

    /// <summary>What is chosen from here on belongs together: it is left out as a whole.</summary>
    internal void Begin() => _steps.Add([]);

    internal void Note(string what) => Notes.Add(what);

    public override int Next() => Next(int.MaxValue);

    public override int Next(int maxValue) => (int)Choose(maxValue);

    public override int Next(int minValue, int maxValue) => (int)(minValue + Choose((long)maxValue - minValue));

    public override long NextInt64(long maxValue) => Choose(maxValue);

    public override void NextBytes(byte[] buffer) => NextBytes(buffer.AsSpan());

    public override void NextBytes(Span<byte> buffer)
    {
        foreach (ref byte value in buffer)
            value = (byte)Choose(256);
    }

    protected override double Sample() => Choose(1 << 30) / (double)(1 << 30);

    /// <summary>
    /// The least of these choices with which <paramref name="body"/> still fails, as far as it is found by leaving out steps and by smaller numbers in a
    /// minute; null when it does not fail with the same choices, as runs of several threads may not.
    /// </summary>
    internal (Choices Least, Exception Failure)? Reduce(Action<Choices> body)
    {
        (Choices Least, Exception Failure)? best = null;
        var clock = Stopwatch.StartNew();
        List<List<long>> steps = [.. _steps];
        if (!Fails(steps))
            return null;
        for (int size = steps.Count; size > 0; size /= 2)
        {
            for (int at = 0; at < steps.Count;)
            {
                List<List<long>> fewer = [.. steps[..at], .. steps[Math.Min(at + size, steps.Count)..]];
                if (Fails(fewer))
                    steps = fewer;
                else
                    at += size;
            }
        }

        for (int step = 0; step < steps.Count; step++)
        {
            for (int index = 0; index < steps[step].Count; index++)
            {
                long low = -1; // passes, or is none
                while (steps[step][index] - low > 1)
                {
                    long smaller = low < 0 ? 0 : low + ((steps[step][index] - low) / 2);
                    List<List<long>> changed = [.. steps];
                    changed[step] = [.. steps[step]];
                    changed[step][index] = smaller;
                    if (Fails(changed))
                        steps = changed;
                    else
                        low = smaller;
                }
            }
        }

        return best;

        bool Fails(List<List<long>> tried)
        {
            if (clock.Elapsed > TimeSpan.FromMinutes(1))
                return false;
            var again = new Choices(tried);
            try
            {
                body(again);
                return false;
            }
#pragma warning disable CA1031 // any failure is one
            catch (Exception failure)
#pragma warning restore CA1031
            {
                best = (again, failure);
                return true;
            }
        }
    }

    private long Choose(long below)
    {
        long value = _source is not null ? _source.NextInt64(below) : AtEnd ? 0 : _given[_next++] % below;
        _steps[^1].Add(value);
        return value;
    }
}
