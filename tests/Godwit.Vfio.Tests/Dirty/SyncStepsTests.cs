using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class SyncStepsTests
{
    /// <summary>Every covered writable page is reported exactly in aligned windows, every other writable page is named, nothing else is.</summary>
    [Fact]
    public void StepsPartitionWhatIsMappedForWriting() => Seeds.ForEach(400, random =>
    {
        ulong granule = 1UL << random.Next(0, 3);
        ulong window = granule * 64;
        bool dense = random.Next(3) == 0; // most mappings are passed over
        ulong budget = window * (ulong)random.Next(1, dense ? 60 : 9);
        ulong bridge = window * (ulong)random.Next(0, dense ? 9 : 4);
        IovaPages[] coverage = RandomRanges(random, 8000, random.Next(0, 5), granule);
        var table = new MappingTable();
        foreach (IovaPages range in RandomRanges(random, dense ? 3000 : 9000, random.Next(0, dense ? 900 : 60), 1, longest: dense ? 4 : 400))
            table.TryInsert(new Mapping(range, new RamPage(range.First + 1_000_000), random.Next(4) != 0));

        var steps = new SyncSteps(coverage, window, granule, budget, bridge);
        var reported = new HashSet<ulong>();
        var uncovered = new HashSet<ulong>();
        ulong next = 0, last = 0;
        var walk = new MappingWalk(table);
        for (int guard = 0; ; guard++)
        {
            Assert.True(guard < 5000, "no progress");
            SyncStep step = steps.Next(ref walk, ref next);
            if (step.Kind == SyncStepKind.End)
                break;
            if (step.Kind == SyncStepKind.Uncovered)
            {
                Assert.Equal(step.Range.First + 1_000_000, step.Ram.Index);
                for (ulong page = step.Range.First; page < step.Range.End; page++)
                    Assert.True(uncovered.Add(page));
                continue;
            }

            Assert.True(step.Range.Count > 0 && step.Range.Count <= budget);
            Assert.True(step.Range.End > last);
            last = step.Range.End;
            Assert.Equal(0UL, step.Range.First % granule);
            Assert.Equal(0UL, step.Range.Count % granule);
            IovaPages inside = Assert.Single(coverage, c => c.First <= step.Range.First && step.Range.First < c.End);
            Assert.True(step.Range.First % window == 0 || step.Range.First == inside.First);
            Assert.True(step.Range.End % window == 0 || step.Range.End == inside.End);
            for (ulong page = step.Range.First; page < step.Range.End; page++)
                reported.Add(page);
            AssertNoWideGap(table, coverage, step.Range, bridge + window);
        }

        MappingTable.Cursor cursor = table.Seek(0);
        while (cursor.MoveNext())
        {
            for (ulong page = cursor.Current.Iova.First; page < cursor.Current.Iova.End && cursor.Current.Writable; page++)
            {
                bool covered = coverage.Any(c => c.First <= page && page < c.End);
                Assert.Equal(covered, reported.Contains(page));
                Assert.Equal(!covered, uncovered.Remove(page));
            }
        }

        Assert.Empty(uncovered);
    });

    [Fact]
    public void AnApertureOf39BitsWithFewMappingsCostsFewReports()
    {
        var table = new MappingTable();
        ulong[] pages = [0x10, 0xFFFFF, 0xFFFFE, 0xFFF80, 0x7FFFFFF];
        foreach (ulong page in pages)
            Assert.True(table.TryInsert(new Mapping(new IovaPages(page, 1), new RamPage(page), true)));
        var steps = new SyncSteps(new[] { new IovaPages(0, 1UL << 27) }, 64, 1, 1 << 20, 256 * 64);
        ulong next = 0;
        List<IovaPages> windows = [];
        var walk = new MappingWalk(table);
        while (steps.Next(ref walk, ref next) is { Kind: SyncStepKind.Report } step)
            windows.Add(step.Range);
        Assert.Equal([new IovaPages(0, 64), new IovaPages(0xFFF80, 128), new IovaPages(0x7FFFFC0, 64)], windows);
    }

    private static void AssertNoWideGap(MappingTable table, IovaPages[] coverage, IovaPages window, ulong widest)
    {
        ulong gap = 0;
        for (ulong page = window.First; page < window.End; page++)
        {
            MappingTable.Cursor cursor = table.Seek(page);
            bool found = false;
            while (cursor.MoveNext() && cursor.Current.Iova.First <= page)
                found |= cursor.Current.Writable && coverage.Any(c => c.First <= page && page < c.End);
            gap = found ? 0 : gap + 1;
            Assert.True(gap < widest + 64, $"gap of {gap} pages in {window}");
        }
    }

    private static IovaPages[] RandomRanges(Random random, int space, int count, ulong alignment, int longest = 400)
    {
        List<IovaPages> result = [];
        ulong at = 0;
        for (int i = 0; i < count; i++)
        {
            ulong first = at + (ulong)random.Next(0, Math.Max(1, 2 * space / count / 2));
            ulong length = (ulong)random.Next(1, random.Next(2) == 0 ? 4 : longest);
            first = (first + alignment - 1) / alignment * alignment;
            length = (length + alignment - 1) / alignment * alignment;
            result.Add(new IovaPages(first, length));
            at = first + length;
        }

        return [.. result];
    }
}
