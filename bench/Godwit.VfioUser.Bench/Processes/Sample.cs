using System.Diagnostics;

namespace Godwit.VfioUser.Bench;

/// <summary>Something to measure.</summary>
/// <param name="Do">Does it once.</param>
/// <param name="With">The process that has the other half of the work.</param>
internal readonly record struct Operation(Action Do, OtherProcess With);

/// <summary>How long each of many equal operations took, one after another, what processor time of both processes, and what they allocated here.</summary>
internal readonly record struct Sample(double PerSecond, double Median, double P99, double P999, double Processor, double AllocatedBytes)
{
    /// <summary>Most durations kept of one operation; a longer run ends there.</summary>
    private const int MaxKept = 4_000_000;

    /// <summary>Operations that are compared take turns of this length, so that what else the machine does meets all of them.</summary>
    private static readonly TimeSpan Turn = TimeSpan.FromMilliseconds(20);

    /// <summary>Does <paramref name="operation"/> for a while, after a shorter while of warming up.</summary>
    public static Sample Take(TimeSpan time, Operation operation) => Take(time, [operation])[0];

    /// <summary>Does each of the operations for a while, in turns, after a shorter while of warming up.</summary>
    public static Sample[] Take(TimeSpan time, params Operation[] operations)
    {
        foreach (Operation operation in operations)
        {
            for (long start = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(start) < time / 4;)
                operation.Do();
        }
        var runs = new Run[operations.Length];
        for (int i = 0; i < runs.Length; i++)
            runs[i] = new Run(operations[i]);
        while (runs.Any(run => run.Ticks < time.TotalSeconds * Stopwatch.Frequency && !run.IsFull))
        {
            foreach (Run run in runs)
                run.Go(Turn);
        }
        return [.. runs.Select(run => run.Result())];
    }

    /// <summary>Does each of the operations so many times, in turns, without warming up.</summary>
    public static Sample[] Take(int times, params Operation[] operations)
    {
        Run[] runs = [.. operations.Select(operation => new Run(operation))];
        for (int i = 0; i < times; i++)
        {
            foreach (Run run in runs)
                run.Go(TimeSpan.Zero);
        }
        return [.. runs.Select(run => run.Result())];
    }

    /// <summary>The table's head.</summary>
    public static void PrintHead()
    {
        Console.WriteLine("operation                                 |  a second | of floor |  median |    99 % |  99.9 % | processor | of floor |  bytes");
        Console.WriteLine("------------------------------------------|----------:|---------:|--------:|--------:|--------:|----------:|---------:|------:");
    }

    /// <summary>One row of the table.</summary>
    /// <param name="name">Of the operation.</param>
    /// <param name="floor">With what it is compared.</param>
    /// <param name="each">How much it does at once; the rate, the processor time and the bytes are those of one, the durations those of the whole.</param>
    public void Print(string name, Sample? floor, int each = 1)
    {
        string rate = floor is { } least ? $"{PerSecond / least.PerSecond * 100:F0} %" : "";
        string processor = floor is { } cheapest ? $"{Processor / cheapest.Processor * 100:F0} %" : "";
        Console.WriteLine(
            $"{name,-41} | {PerSecond * each,9:F0} | {rate,8} | {Median,7:F1} | {P99,7:F1} | {P999,7:F1} | {Processor / each,9:F1} | {processor,8} | {AllocatedBytes / each,6:F2}");
    }

    private static double Microseconds(long ticks) => ticks * 1e6 / Stopwatch.Frequency;

    /// <summary>One operation's turns.</summary>
    private sealed class Run(Operation operation)
    {
        private readonly long[] _durations = new long[MaxKept];
        private int _count;
        private long _allocated;
        private TimeSpan _processor;

        public long Ticks { get; private set; }

        public bool IsFull => _count == MaxKept;

        public void Go(TimeSpan time)
        {
            if (IsFull)
                return;
            TimeSpan processor = ProcessorTime();
            long allocated = GC.GetTotalAllocatedBytes(precise: true);
            long began = Stopwatch.GetTimestamp();
            long last = began;
            long end = began + (long)(time.TotalSeconds * Stopwatch.Frequency);
            do
            {
                operation.Do();
                long now = Stopwatch.GetTimestamp();
                _durations[_count++] = now - last;
                last = now;
            }
            while (last < end && _count < MaxKept);
            Ticks += last - began;
            _allocated += GC.GetTotalAllocatedBytes(precise: true) - allocated;
            _processor += ProcessorTime() - processor;
        }

        public Sample Result()
        {
            Span<long> durations = _durations.AsSpan(0, _count);
            durations.Sort();
            return new Sample(
                _count * (double)Stopwatch.Frequency / Ticks,
                Microseconds(durations[_count / 2]),
                Microseconds(durations[(int)(_count * 0.99)]),
                Microseconds(durations[(int)(_count * 0.999)]),
                _processor.TotalMicroseconds / _count,
                (double)_allocated / _count);
        }

        private TimeSpan ProcessorTime() => OtherProcess.ProcessorTimeOf(Environment.ProcessId) + OtherProcess.ProcessorTimeOf(operation.With.Id);
    }
}
