using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Godwit.Memory.Bench;

/// <summary>
/// Draining a whole bitmap into runs, against reading as many bytes once, in one run. Dirty pages are random, so that nearly every run is
/// one page long: the worst case for a given number of pages. By processor time, so that neighbours disturb little. Each figure is the best of several
/// turns, taken in alternation; the median of the turns' ratios is told besides.
/// </summary>
internal static unsafe class DrainRatios
{
    private const int Turns = 9;

    // Dirty pages in a million, and the goal of issue 4.
    private static readonly (int PerMillion, double Goal)[] Cases = [(0, 0.05), (1_000, 1.5), (10_000, 4)];

    public static int Run(long bytes)
    {
        ulong pages = (ulong)bytes * 8;
        ulong words = (ulong)bytes / sizeof(ulong);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"A bitmap of {bytes >> 20} MiB: {pages >> 18} GiB of RAM"));
        // SAFETY: freed below; read within its size.
        var plain = (ulong*)NativeMemory.AlignedAlloc((nuint)bytes, 64);
        NativeMemory.Fill(plain, (nuint)bytes, 1);
        using var bitmap = new DirtyBitmap(pages);
        var runs = new DirtyRun[16384];
        bool met = true;
        // Once before it counts: the pages are there, and the code has reached its last tier.
        Fill(bitmap, 1_000);
        DrainAll(bitmap, runs);

        foreach ((int perMillion, double goal) in Cases)
        {
            TimeSpan read = TimeSpan.MaxValue, drain = TimeSpan.MaxValue;
            var ratios = new double[Turns];
            ulong dirty = 0;
            long allocated = 0;
            for (int turn = 0; turn < Turns; turn++)
            {
                ulong marked = Fill(bitmap, perMillion);
                TimeSpan oneRead = Time(() => Read(plain, words));
                read = Min(read, oneRead);
                long before = GC.GetAllocatedBytesForCurrentThread();
                TimeSpan began = Environment.CpuUsage.TotalTime;
                dirty = DrainAll(bitmap, runs);
                TimeSpan oneDrain = Environment.CpuUsage.TotalTime - began;
                drain = Min(drain, oneDrain);
                ratios[turn] = oneDrain / oneRead;
                allocated = GC.GetAllocatedBytesForCurrentThread() - before;
                if (dirty != marked)
                    throw new InvalidOperationException($"{marked} pages were marked and {dirty} came out");
            }

            double ratio = drain / read;
            Array.Sort(ratios);
            met &= ratio < goal;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{perMillion / 1e4,5:0.0} % dirty ({dirty,9} pages): read {read.TotalMilliseconds,6:0.00} ms, drain {drain.TotalMilliseconds,7:0.00} ms = {ratio:0.000} times (median {ratios[Turns / 2]:0.000}, goal < {goal}); {allocated} bytes allocated"));
        }

        NativeMemory.AlignedFree(plain);
        return met ? 0 : 1;
    }

    private static ulong Read(ulong* words, ulong count)
    {
        Vector256<ulong> a = default, b = default;
        for (ulong i = 0; i < count; i += 8)
        {
            a |= Vector256.Load(words + i);
            b |= Vector256.Load(words + i + 4);
        }

        return (a | b)[0];
    }

    private static ulong DrainAll(DirtyBitmap bitmap, DirtyRun[] runs)
    {
        ulong total = 0;
        for (ulong next = 0; next < bitmap.PageCount;)
        {
            foreach (DirtyRun run in runs.AsSpan(0, bitmap.Drain(ref next, 4096, runs)))
                total += run.Count;
        }

        return total;
    }

    private static ulong Fill(DirtyBitmap bitmap, int perMillion)
    {
        var random = new Random(1);
        ulong marked = 0;
        for (ulong left = bitmap.PageCount / 1_000_000 * (ulong)perMillion; left > 0; left--)
            marked += bitmap.Set((ulong)random.NextInt64((long)bitmap.PageCount)) ? 1UL : 0;
        return marked;
    }

    private static TimeSpan Time(Func<ulong> what)
    {
        TimeSpan began = Environment.CpuUsage.TotalTime;
        GC.KeepAlive(what());
        return Environment.CpuUsage.TotalTime - began;
    }

    private static TimeSpan Min(TimeSpan a, TimeSpan b) => a < b ? a : b;
}
