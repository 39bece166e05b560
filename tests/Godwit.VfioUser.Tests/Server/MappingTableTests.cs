namespace Godwit.VfioUser.Tests;

/// <summary>The mapping table against a plain sorted dictionary, and with readers at work.</summary>
public sealed class MappingTableTests
{
    [Fact]
    public void Agrees_with_a_plain_model()
    {
        int seed = Environment.TickCount;
        for (int run = 0; run < 20; run++)
            Run(seed + run, run % 2 == 0 ? 300 : 6000);

        static void Run(int seed, int pages)
        {
            var random = new Random(seed);
            var table = new MappingTable();
            var model = new SortedDictionary<ulong, Mapping>();
            for (int step = 0; step < 4000; step++)
            {
                ulong start = (ulong)random.Next(pages) << 12;
                ulong length = (ulong)random.Next(1, random.Next(2) == 0 ? 3 : 40) << 12;
                ulong last = start + length - 1;
                Mapping[] overlapping = [.. model.Values.Where(m => m.Start <= last && m.Last >= start)];
                string where = $"seed {seed}, step {step}";
                Assert.True((table.FindOverlap(start, last) is not null) == overlapping.Length > 0, where);
                var collected = new List<Mapping>();
                table.Collect(start, last, collected);
                Assert.True(overlapping.SequenceEqual(collected), where);
                if (overlapping.Length == 0)
                {
                    Mapping added = Create(start, length);
                    table.Add(added);
                    model.Add(start, added);
                }
                else if (random.Next(3) != 0)
                {
                    foreach (Mapping mapping in overlapping)
                    {
                        table.Remove(mapping);
                        model.Remove(mapping.Start);
                    }
                }
                Assert.Equal(model.Count, table.Count);
                ulong probe = (ulong)random.Next(pages + 2) << 12;
                Mapping? expected = model.Values.FirstOrDefault(m => m.Start <= probe && m.Last >= probe);
                Assert.True(expected == table.Find(probe), where);
            }
            Assert.Equal(model.Values, table.Clear());
            Assert.Null(table.Find(0));
        }
    }

    [Fact]
    public void Readers_find_what_stays_while_all_around_changes()
    {
        int seed = Environment.TickCount;
        var table = new MappingTable();
        const int Pages = 4096;
        for (ulong page = 0; page < Pages; page += 2)
            table.Add(Create(page << 12, 4096));
        using var stop = new CancellationTokenSource();
        Exception? failure = null;
        Thread[] readers = [.. Enumerable.Range(0, 2).Select(t => new Thread(() =>
        {
            var random = new Random(seed + t);
            try
            {
                while (!stop.IsCancellationRequested)
                {
                    ulong page = (ulong)random.Next(Pages);
                    bool found = table.TryEnter(page << 12, out Mapping? mapping);
                    if (page % 2 == 0)
                        Assert.True(found, $"page {page} of seed {seed}");
                    if (found)
                    {
                        Assert.Equal(page << 12, mapping!.Start);
                        mapping.Exit(table.Drained);
                    }
                }
            }
            catch (Exception e)
            {
                failure = e;
            }
        }))];
        foreach (Thread reader in readers)
            reader.Start();
        var changes = new Random(seed);
        var odd = new Mapping?[Pages];
        for (int i = 0; i < 200_000 && failure is null; i++)
        {
            int page = changes.Next(Pages) | 1;
            if (odd[page] is { } mapping)
            {
                table.Remove(mapping);
                if (!mapping.Retire())
                    mapping.AwaitLast(table.Drained);
                odd[page] = null;
            }
            else
            {
                table.Add(odd[page] = Create((ulong)page << 12, 4096));
            }
        }
        stop.Cancel();
        Assert.All(readers, reader => Assert.True(reader.Join(TestServer.Patience)));
        Assert.Null(failure);
    }

    [Fact]
    public void A_retired_mapping_lets_nobody_in()
    {
        var gate = new object();
        Mapping mapping = Create(0, 4096);
        Assert.True(mapping.TryEnter(gate));
        mapping.Exit(gate);
        Assert.True(mapping.Retire());
        Assert.False(mapping.TryEnter(gate));
    }

    private static Mapping Create(ulong start, ulong length) => new(new DmaRange(new DmaAddress(start), length), DmaAccess.Read, null, default);
}
