using System.Diagnostics;
using System.Globalization;
using Godwit.Memory;

namespace Godwit.Vfio.Bench;

/// <summary>The mapping table: bytes that stay for each 4 KiB mapping, and the time of each operation, also while readers walk over it.</summary>
internal static class MappingTableCosts
{
    /// <summary>Of issue 4, for mappings that do not continue each other.</summary>
    private const double MostBytes = 48;

    public static int Run(int count)
    {
        Console.WriteLine($"{count} mappings of 4 KiB");
        Console.WriteLine("order        | bytes each |   runs | insert ns | find ns | walk ns | remove ns");
        Console.WriteLine("-------------|-----------:|-------:|----------:|--------:|--------:|---------:");
        bool met = true;
        int[] up = [.. Enumerable.Range(0, count)];
        int[] random = [.. up];
        new Random(1).Shuffle(random);
        met &= Measure("ascending", up, continues: false);
        met &= Measure("descending", [.. up.Reverse()], continues: false);
        met &= Measure("random", random, continues: false);
        met &= Measure("contiguous", up, continues: true);
        Churn(random);
        Readers(up);
        return met ? 0 : 1;
    }

    private static bool Measure(string name, int[] order, bool continues)
    {
        long before = GC.GetTotalMemory(forceFullCollection: true);
        var table = new MappingTable();
        double insert = Each(order, i => table.TryInsert(Make(i, continues)));
        double bytes = (GC.GetTotalMemory(forceFullCollection: true) - before) / (double)order.Length;
        int runs = table.RunCount;
        double find = Each(order, i => table.Seek(Make(i, continues).Iova.First).MoveNext());
        long began = Stopwatch.GetTimestamp();
        MappingTable.Cursor cursor = table.Seek(0);
        while (cursor.MoveNext())
        {
        }

        double walk = Stopwatch.GetElapsedTime(began).TotalNanoseconds / runs;
        double remove = Each(order, i => table.TryTakeFirst(Make(i, continues).Iova, out _));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name,-12} | {bytes,10:0.0} | {runs,6} | {insert,9:0} | {find,7:0} | {walk,7:0.0} | {remove,9:0}"));
        GC.KeepAlive(table);
        return bytes < MostBytes;
    }

    /// <summary>Half of the mappings go and come in any order, over and over: what is left between is bounded.</summary>
    private static void Churn(int[] random)
    {
        long before = GC.GetTotalMemory(forceFullCollection: true);
        var table = new MappingTable();
        foreach (int i in random)
            table.TryInsert(Make(i, false));
        for (int round = 0; round < 4; round++)
        {
            new Random(round).Shuffle(random);
            foreach (int i in random.AsSpan(0, random.Length / 2))
                table.TryTakeFirst(Make(i, false).Iova, out _);
            new Random(round + 100).Shuffle(random.AsSpan(0, random.Length / 2));
            foreach (int i in random.AsSpan(0, random.Length / 2))
                table.TryInsert(Make(i, false));
        }

        double bytes = (GC.GetTotalMemory(forceFullCollection: true) - before) / (double)random.Length;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"after churn  | {bytes,10:0.0} | {table.RunCount,6} |"));
    }

    /// <summary>One thread changes the table, one walks over it: neither waits for the other.</summary>
    private static void Readers(int[] order)
    {
        var table = new MappingTable();
        foreach (int i in order)
            table.TryInsert(Make(i, false));
        bool stop = false;
        long walked = 0;
        var reader = new Thread(() =>
        {
            while (!Volatile.Read(ref stop))
            {
                MappingTable.Cursor cursor = table.Seek(0);
                while (cursor.MoveNext())
                    walked++;
            }
        });
        double alone = Each(order, Replace);
        reader.Start();
        long began = Stopwatch.GetTimestamp();
        double beside = Each(order, Replace);
        TimeSpan time = Stopwatch.GetElapsedTime(began);
        Volatile.Write(ref stop, true);
        reader.Join();
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"remove and insert again: {alone:0} ns alone, {beside:0} ns beside a reader that saw {walked / time.TotalSeconds / 1e6:0.0} million mappings a second"));

        bool Replace(int i) => table.TryTakeFirst(Make(i, false).Iova, out Mapping mapping) && table.TryInsert(mapping);
    }

    private static Mapping Make(int i, bool continues) => continues
        ? new Mapping(new IovaPages((ulong)i, 1), new RamPage((ulong)i), true)
        : new Mapping(new IovaPages((ulong)i * 3, 1), new RamPage((ulong)i * 7), true);

    private static double Each(int[] order, Func<int, bool> operation)
    {
        long began = Stopwatch.GetTimestamp();
        foreach (int i in order)
        {
            if (!operation(i))
                throw new InvalidOperationException($"Mapping {i} is not as it was expected");
        }

        return Stopwatch.GetElapsedTime(began).TotalNanoseconds / order.Length;
    }
}
