using System.Diagnostics;
using Godwit.Memory;

namespace Godwit.Iommu.Bench;

/// <summary>
/// Each figure of docs/vtd.md once, in seconds: the best of some rounds by the stopwatch, and what was allocated. What must not allocate and
/// does is an error; times are printed and not judged.
/// </summary>
internal static class QuickRun
{
    private const int Translations = 0x1_0000;
    private const int Rounds = 12;
    private const int Million = 1_000_000;
    private static int _failures;

    internal static int Go()
    {
        using (var guest = new BenchGuest())
        {
            guest.Fill(guest.Table, 256);
            Report("cached translation", Translations, () => Translate(guest, 256));
        }

        foreach (BenchTables tables in Enum.GetValues<BenchTables>())
        {
            for (int levels = tables == BenchTables.FirstStage ? 4 : 3; levels <= 5; levels++)
            {
                using var guest = new BenchGuest(tables, levels);
                guest.Fill(guest.Table, Translations);
                // A sixty-fourth of this fits the cache, so nearly all are walks; filling the cache is part of each.
                Report($"walk, {tables}, {levels} levels", Translations, () => Translate(guest, Translations));
            }
        }

        foreach (BenchTables tables in Enum.GetValues<BenchTables>())
            Announce(tables);
        return _failures;
    }

    private static void Announce(BenchTables tables)
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
        Console.WriteLine($"{$"memory of 10^6 mappings, {tables}",-46}{bytes / 1048576.0,10:f1} MiB");

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

    private static void Report(string what, int operations, Action body)
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

        if (allocated != 0)
            _failures++;
        Console.WriteLine($"{what,-46}{best,10:f1} ns{allocated,10} bytes{1000 / best,10:f2} M/s");
    }
}
