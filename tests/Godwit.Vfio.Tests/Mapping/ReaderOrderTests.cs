namespace Godwit.Vfio.Tests;

/// <summary>
/// The version checks of the table's readers, by changing it between any two steps of one, on one thread: the source as it is sees what stays exactly
/// once, and without either check it does not.
/// </summary>
public sealed class ReaderOrderTests
{
    private const ulong Pages = 4000, Stays = 4;
    private const int Lives = 300;

    [Fact]
    public void WhateverChangesBetweenTwoStepsAReaderSeesWhatStaysOnce()
    {
        for (int seed = 0; seed < Lives; seed++)
            Assert.Null(Misread(nameof(Variants.Stepped), seed));
    }

    [Theory]
    [InlineData(nameof(Variants.ChunkVersionIgnored))]
    [InlineData(nameof(Variants.DirectoryVersionIgnored))]
    public void WithoutTheCheckItDoesNot(string variant)
    {
        for (int seed = 0; seed < Lives; seed++)
        {
            if (Misread(variant, seed) is not { } misread)
                continue;
            TestContext.Current.TestOutputHelper?.WriteLine($"{variant} was seen with seed {seed}: {misread}");
            return;
        }

        Assert.Fail($"{variant} was not seen in {Lives} tries");
    }

    /// <summary>What a reader that walks through once sees wrongly; null when it sees what it should.</summary>
    private static string? Misread(string variant, int seed)
    {
        var random = new Random(seed);
        Map map = Map.Of(variant);
        for (ulong page = 0; page < Pages; page++)
        {
            if (page % Stays == 0 || random.Next(2) == 0)
                map.Insert(new IovaPages(page, 1), Value(page));
        }

        int density = 1; // of eight: chunks fill and fall empty
        void Change()
        {
            if (random.Next(4) != 0)
                return;
            if (random.Next(64) == 0)
                density = random.Next(9);
            ulong from = (ulong)random.NextInt64((long)Pages - 64);
            for (ulong page = from; page < from + 64; page++)
            {
                if (page % Stays == 0)
                    continue;
                if (random.Next(8) < density)
                    map.Insert(new IovaPages(page, 1), Value(page));
                else
                    map.Take(new IovaPages(page, 1));
            }
        }

        string? wrong = null;
        ulong end = 0, seen = 0;
        try
        {
            ReaderSteps.Read(
                () => map.Walk((range, value) =>
                {
                    if (range.First < end || range.Count == 0 || range.End > Pages || value != Value(range.First))
                        wrong ??= $"{range} with value {value} after page {end}";
                    end = range.End;
                    seen += (end + Stays - 1) / Stays - (range.First + Stays - 1) / Stays;
                    return wrong is null;
                }),
                Change);
        }
        catch (Exception e) when (e is IndexOutOfRangeException or NullReferenceException)
        {
            return e.Message; // a reader in a chunk that is no more
        }

        return wrong ?? (seen == Pages / Stays ? null : $"{seen} of {Pages / Stays} ranges were seen");
    }

    /// <summary>Differs by no step, so that no ranges are joined and chunks split and merge.</summary>
    private static ulong Value(ulong page) => page * 7;

    /// <summary>One of the variants, which have no type in common.</summary>
    private sealed class Map(Func<IovaPages, ulong, bool> insert, Map.Taker take, Action<Func<IovaPages, ulong, bool>> walk)
    {
        public delegate bool Taker(IovaPages range, out IovaPages taken, out ulong value);

        public static Map Of(string variant)
        {
            switch (variant)
            {
                case nameof(Variants.Stepped):
                    var stepped = new Variants.Stepped.PageRangeMap();
                    return new Map(stepped.TryInsert, stepped.TryTakeFirst, seen =>
                    {
                        Variants.Stepped.PageRangeMap.Cursor cursor = stepped.Seek(0);
                        while (cursor.MoveNext() && seen(cursor.Current.Range, cursor.Current.Value))
                        {
                        }
                    });
                case nameof(Variants.ChunkVersionIgnored):
                    var chunk = new Variants.ChunkVersionIgnored.PageRangeMap();
                    return new Map(chunk.TryInsert, chunk.TryTakeFirst, seen =>
                    {
                        Variants.ChunkVersionIgnored.PageRangeMap.Cursor cursor = chunk.Seek(0);
                        while (cursor.MoveNext() && seen(cursor.Current.Range, cursor.Current.Value))
                        {
                        }
                    });
                default:
                    var directory = new Variants.DirectoryVersionIgnored.PageRangeMap();
                    return new Map(directory.TryInsert, directory.TryTakeFirst, seen =>
                    {
                        Variants.DirectoryVersionIgnored.PageRangeMap.Cursor cursor = directory.Seek(0);
                        while (cursor.MoveNext() && seen(cursor.Current.Range, cursor.Current.Value))
                        {
                        }
                    });
            }
        }

        public void Insert(IovaPages range, ulong value) => insert(range, value);

        public void Take(IovaPages range) => take(range, out _, out _);

        public void Walk(Func<IovaPages, ulong, bool> seen) => walk(seen);
    }
}
