using System.Diagnostics;
using Godwit.Memory;

namespace Godwit.Iommu.Bench;

/// <summary>
/// Each figure of docs/vtd.md once: the best of some rounds by the stopwatch, and what was allocated, with the goals beside them. Bytes are always
/// judged: they are the same on a busy machine. Times are judged in a whole run only.
/// </summary>
internal sealed class FigureRun(bool quick)
{
    private const int Translations = 0x1_0000;
    private const int Million = 1_000_000;

    // Of issue 3.
    private const double CachedNanoseconds = 15, WalkNanoseconds = 150;
    private const long MillionBytes = 64_000_000;

    private bool _missed;

    private int Rounds => quick ? 12 : 60;

    /// <summary>Prints all; true when no goal that is judged was missed.</summary>
    internal bool Go()
    {
        using (var guest = new BenchGuest())
        {
            guest.Fill(guest.Table, 256);
            Report("cached translation", Translations, () => Translate(guest, 256), CachedNanoseconds);
        }

        foreach (BenchTables tables in Enum.GetValues<BenchTables>())
        {
            for (int levels = tables == BenchTables.FirstStage ? 4 : 3; levels <= 5; levels++)
            {
                using var guest = new BenchGuest(tables, levels);
                guest.Fill(guest.Table, Translations);
                // A sixty-fourth of this fits the cache, so nearly all are walks; filling the cache is part of each.
                Report($"walk, {tables}, {levels} levels", Translations, () => Translate(guest, Translations), WalkNanoseconds);
            }
        }

        foreach (BenchTables tables in Enum.GetValues<BenchTables>())
            Announce(tables);
        Console.WriteLine(_missed ? "goals missed" : quick ? "goals of bytes met; times are not judged here" : "goals met");
        return !_missed;
    }

    private void Announce(BenchTables tables)
    {
        const int Pairs = 4096;
        using var guest = new BenchGuest(tables, tables == BenchTables.FirstStage ? 4 : 3);
        guest.Fill(guest.Table, Million);
        ulong other = guest.AllocateTable();
        guest.Fill(other, Million);
        var counter = new CountingListener();
        long before = GC.GetTotalMemory(forceFullCollection: true);
        guest.Region.AddListener(counter, BusRange.All);
        long bytes = GC.GetTotalMemory(forceFullCollection: true) - before;
        if (counter.Events != Million)
            throw new InvalidOperationException($"{counter.Events} mappings announced, not {Million}");
        Console.WriteLine(
            $"{$"memory of 10^6 mappings, {tables}",-46}{bytes / 1e6,10:f1} MB{Judge(bytes < MillionBytes, judged: true, $"under {MillionBytes / 1e6:f0} MB")}");

        // Strict: each buffer is mapped, told, unmapped, told, with 10^6 others live.
        ulong[] entries = new ulong[Pairs];
        for (int index = 0; index < Pairs; index++)
            entries[index] = guest.EntryOf(Iova(index));
        Report($"map and unmap, 10^6 live, {tables}", Pairs, () =>
        {
            for (int index = 0; index < Pairs; index++)
            {
                guest.Write(entries[index], 0x20_0000 | guest.Rights);
                guest.Invalidate(Iova(index), 0);
                guest.Write(entries[index], 0);
                guest.Invalidate(Iova(index), 0);
            }
        });
        Report($"invalidate 1 same page of 10^6, {tables}", Pairs, () =>
        {
            for (int index = 0; index < Pairs; index++)
                guest.Invalidate((ulong)(index * 200) << 12, 0);
        });

        double best = double.MaxValue;
        for (int round = 0; round < 4; round++)
        {
            long events = counter.Events, start = Stopwatch.GetTimestamp();
            guest.SwitchDomain(round % 2 == 0 ? other : guest.Table, (ushort)(2 + (round % 2)));
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            // The two tables map the same, which the unit finds out leaf by leaf; entries of the first's buffers are empty.
            if (counter.Events != events)
                throw new InvalidOperationException("the same mappings were announced again");
        }

        Console.WriteLine($"{$"domain switch, 10^6 the same, {tables}",-46}{best,10:f1} ms");
        // Every page elsewhere: 10^6 unmaps and as many maps.
        for (ulong page = 0; page < Million; page++)
            guest.Write(guest.EntryOf(page << 12, other), (((page + 1) << 12) % 0x800_0000) | guest.Rights);
        best = double.MaxValue;
        for (int round = 0; round < 4; round++)
        {
            long events = counter.Events, start = Stopwatch.GetTimestamp();
            guest.SwitchDomain(round % 2 == 0 ? other : guest.Table, (ushort)(2 + (round % 2)));
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            if (counter.Events - events != 2 * Million)
                throw new InvalidOperationException($"{counter.Events - events} events, not {2 * Million}");
        }

        Console.WriteLine($"{$"domain switch, 10^6 others, {tables}",-46}{best,10:f1} ms");

        static ulong Iova(int index) => 0x1_FFFF_F000 - ((ulong)index << 12);
    }

    private static void Translate(BenchGuest guest, int pages)
    {
        ulong page = 1;
        for (int index = 0; index < Translations; index++)
        {
            // A full period over any power of two, in an order that defeats prefetching.
            page = ((page * 1_664_525) + 1_013_904_223) & (uint)(pages - 1);
            if (guest.Region.Translate(new Iova(page << 12), AccessRights.Read, TransactionAttributes.Vmm).Rights == AccessRights.None)
                throw new InvalidOperationException($"page {page} is not mapped");
        }
    }

    private void Report(string what, int operations, Action body, double? goal = null)
    {
        double best = double.MaxValue;
        long allocated = 0;
        for (int round = 0; round < Rounds; round++)
        {
            if (round == Rounds / 2)
                Thread.Sleep(200); // the background compiler's turn
            long bytes = GC.GetAllocatedBytesForCurrentThread(), start = Stopwatch.GetTimestamp();
            body();
            double elapsed = Stopwatch.GetElapsedTime(start).TotalNanoseconds / operations;
            bytes = GC.GetAllocatedBytesForCurrentThread() - bytes;
            if (elapsed >= best)
                continue;
            best = elapsed;
            allocated = bytes;
        }

        string time = goal is { } most ? Judge(best < most, judged: !quick, $"under {most:f0} ns") : "";
        Console.WriteLine(
            $"{what,-46}{best,10:f1} ns{allocated,10} bytes{1000 / best,10:f2} M/s{Judge(allocated == 0, judged: true, "0 bytes")}{time}");
    }

    private string Judge(bool met, bool judged, string goal)
    {
        _missed |= judged && !met;
        return $"  {(met ? "met" : judged ? "MISSED" : "missed, not judged")}: {goal}";
    }
}
