namespace Godwit.VfioUser.Tests;

/// <summary>The mapping table against a plain sorted dictionary, and with readers at work.</summary>
public sealed class MappingTableTests
{
    /// <summary>Mappings of a leaf and leaves of a node: as they are, and so few that every level comes and goes all the time.</summary>
    public static TheoryData<int, int> Capacities => new() { { 64, 256 }, { 4, 4 }, { 2, 2 } };

    [Theory]
    [MemberData(nameof(Capacities))]
    public void Agrees_with_a_plain_model(int leafCapacity, int nodeCapacity)
    {
        int seed = Environment.TickCount;
        for (int run = 0; run < 8; run++)
            Run(seed + run, run % 2 == 0 ? 300 : 6000);

        void Run(int seed, int pages)
        {
            var random = new Random(seed);
            var table = new MappingTable(leafCapacity, nodeCapacity);
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

    /// <summary>More nodes than one, of full size: up, down and in any order; then taken out from any side, to the last.</summary>
    [Theory]
    [InlineData("up")]
    [InlineData("down")]
    [InlineData("shuffled")]
    public void Many_come_and_go(string order)
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        const int Mappings = 3 * 64 * 256;
        // Two pages each and one of none between.
        Mapping[] all = [.. Enumerable.Range(0, Mappings).Select(i => Create((ulong)i * 0x3000, 0x2000))];
        var table = new MappingTable();
        foreach (Mapping mapping in Ordered(order))
            table.Add(mapping);
        var collected = new List<Mapping>();
        table.Collect(0, ulong.MaxValue, collected);
        Assert.Equal(all, collected);

        int left = Mappings;
        foreach (Mapping mapping in Ordered(order == "shuffled" ? "up" : "shuffled"))
        {
            Assert.True(mapping == table.Find(mapping.Last), $"seed {seed}, {left} left");
            Assert.True(mapping == table.FindOverlap(mapping.Last, mapping.Last + 0x1000), $"seed {seed}, {left} left");
            table.Remove(mapping);
            Assert.Null(table.Find(mapping.Start));
            Assert.Null(table.Find(mapping.Last + 1));
            Assert.Equal(--left, table.Count);
            if (left % 8192 == 0)
            {
                int from = random.Next(Mappings);
                collected.Clear();
                table.Collect(all[from].Last, ulong.MaxValue, collected);
                Assert.True(all.Skip(from).Where(m => table.Find(m.Start) == m).SequenceEqual(collected), $"seed {seed}, {left} left");
            }
        }
        Assert.Throws<InvalidOperationException>(() => table.Remove(all[0]));

        IEnumerable<Mapping> Ordered(string by)
        {
            Mapping[] ordered = [.. all];
            if (by == "down")
                Array.Reverse(ordered);
            if (by == "shuffled")
                random.Shuffle(ordered);
            return ordered;
        }
    }

    /// <summary>A leaf is copied for each, 32 entries of 16 bytes in the middle, and the rest is rare: whatever is there already, and in whichever direction more comes.</summary>
    [Theory]
    [InlineData(0, true)]
    [InlineData(0, false)]
    [InlineData(200_000, true)]
    [InlineData(200_000, false)]
    public void One_more_or_less_allocates_no_more_among_many(int others, bool upwards)
    {
        const int Some = 64 * 20;
        const ulong Middle = 1UL << 40;
        var table = new MappingTable();
        for (int i = 0; i < others; i++)
            table.Add(Create(At(i), 0x1000));
        Mapping[] more = [.. Enumerable.Range(others, Some).Select(i => Create(At(i), 0x1000))];
        long allocated = Allocations.Of(() =>
        {
            foreach (Mapping mapping in more)
                table.Add(mapping);
            foreach (Mapping mapping in more)
                table.Remove(mapping);
        });
        Assert.InRange(allocated / (2.0 * Some), 500, 700);

        ulong At(int i) => upwards ? Middle + (ulong)i * 0x2000 : Middle - (ulong)i * 0x2000;
    }

    [Fact]
    public void Looking_up_allocates_nothing()
    {
        var table = new MappingTable();
        for (ulong i = 0; i < 50_000; i++)
            table.Add(Create(i * 0x2000, 0x1000));
        int found = 0;
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (ulong i = 0; i < 50_000; i += 777)
            {
                if (table.TryEnter(i * 0x2000, out Mapping? mapping))
                    mapping.Exit(table.Drained);
                found += table.Find(i * 0x2000 + 0x1000) is null ? 1 : 0;
            }
        }));
        Assert.True(found > 0);
    }

    [Theory]
    [MemberData(nameof(Capacities))]
    public void Readers_find_what_stays_while_all_around_changes(int leafCapacity, int nodeCapacity)
    {
        int seed = Environment.TickCount;
        var table = new MappingTable(leafCapacity, nodeCapacity);
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
