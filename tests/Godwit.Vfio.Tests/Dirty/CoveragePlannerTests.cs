using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class CoveragePlannerTests
{
    [Fact]
    public void NoPlanExceedsALimitAndWhatIsCountedAsUncoveredIsWhatItLeavesOut()
    {
        for (int seed = 0; seed < 3000; seed++)
        {
            var random = new Random(seed);
            ulong end = 1UL << random.Next(12, 36);
            var table = new MappingTable();
            for (int i = random.Next(0, 400); i > 0; i--)
            {
                ulong first = (ulong)random.NextInt64((long)end - 600);
                table.TryInsert(new Mapping(new IovaPages(first, (ulong)random.Next(1, 600)), new RamPage(0), random.Next(4) != 0));
            }

            int most = random.Next(6, 36);
            var limits = new DeviceLogLimits
            {
                MaxRanges = random.Next(1, 40),
                MaxSpanBytes = 4096UL << most,
                MinSpanBytes = 4096UL << random.Next(0, most),
                SpanIncludesGaps = random.Next(3) == 0,
                PageBytes = 4096UL << random.Next(0, 3),
            };
            if (CoveragePlanner.ByUse(table, end, limits, new Headroom((ulong)random.Next(1 << 16), (ulong)random.Next(1 << 12))) is not { } plan)
                continue;
            ulong span = limits.SpanIncludesGaps
                ? plan.Ranges[^1].End - plan.Ranges[0].First
                : plan.Ranges.Aggregate(0UL, (sum, r) => sum + r.Count);
            Assert.True(plan.Ranges.Length <= limits.MaxRanges, $"seed {seed}: {plan.Ranges.Length} ranges");
            Assert.True(span << 12 <= limits.MaxSpanBytes && span << 12 >= limits.MinSpanBytes, $"seed {seed}: span of {span} pages, {limits}");
            ulong last = 0;
            foreach (IovaPages range in plan.Ranges)
            {
                Assert.True(range.Count > 0 && range.First >= last && range.End <= end, $"seed {seed}: {range}");
                last = range.End;
            }

            AssertEveryWritablePageIsReportedOrUncovered(seed, table, plan, limits);
        }
    }

    [Fact]
    public void EmptyTablesAreCoveredWhereLinuxAllocatesFirst()
    {
        CoveragePlan plan = CoveragePlanner.ByUse(new MappingTable(), 1UL << 36, new DeviceLogLimits { MaxSpanBytes = 1 << 30 }, new Headroom(768, 256))!;
        Assert.Equal(new IovaPages((1UL << 20) - 64 - 768, 64 + 1024), Assert.Single(plan.Ranges));
    }

    [Fact]
    public void TheSmallestGapsAreBridgedFirst()
    {
        var table = new MappingTable();
        foreach (ulong page in new ulong[] { 0, 128, 4096, 4096 + 640, 1 << 20 })
            table.TryInsert(new Mapping(new IovaPages(page, 1), new RamPage(0), true));
        CoveragePlan plan = CoveragePlanner.ByUse(table, 1UL << 36, new DeviceLogLimits { MaxRanges = 3, MaxSpanBytes = 1 << 30 }, default)!;
        Assert.Equal([new IovaPages(0, 192), new IovaPages(4096, 704), new IovaPages(1 << 20, 64)], plan.Ranges);
    }

    [Theory]
    [InlineData(8, 1UL << 12, 1UL << 6, false)]
    [InlineData(256, 1UL << 10, 0UL, false)]
    [InlineData(3, 1UL << 8, 0UL, true)]
    [InlineData(1, 1UL << 13, 1UL << 3, false)]
    public void ProbingFindsTheLimits(int ranges, ulong most, ulong least, bool oneRegion)
    {
        var device = new ModelDevice(new ModelDeviceTraits { MaxRanges = ranges, MaxSpan = most, MinSpan = least, OneRegion = oneRegion }, new Random(0));
        DeviceLogLimits found = new LogProbe(device).Run(1UL << 27, "EOPNOTSUPP");
        Assert.Equal((ranges, most << 12, Math.Max(least, 1) << 12, oneRegion), (found.MaxRanges, found.MaxSpanBytes, found.MinSpanBytes, found.SpanIncludesGaps));
        device.StartDmaLogging(4096, [new IovaPages(0, Math.Max(least, 1))]); // it was left stopped
    }

    private static void AssertEveryWritablePageIsReportedOrUncovered(int seed, MappingTable table, CoveragePlan plan, DeviceLogLimits limits)
    {
        ulong granule = limits.PageBytes >> 12;
        var steps = new SyncSteps(plan.Ranges.AsMemory(), 64 * granule, granule, 1 << 16, 0);
        List<IovaPages> seen = [];
        ulong next = 0, uncovered = 0;
        var walk = new MappingWalk(table);
        while (steps.Next(ref walk, ref next) is { Kind: not SyncStepKind.End } step)
        {
            // A report tells of what the log is armed for, however far it reaches.
            if (step.Kind == SyncStepKind.Report)
                seen.AddRange(plan.Ranges.Where(r => r.Overlaps(step.Range)).Select(r => IovaPages.Between(Math.Max(r.First, step.Range.First), Math.Min(r.End, step.Range.End))));
            else
                seen.Add(step.Range);
            uncovered += step.Kind == SyncStepKind.Uncovered ? step.Range.Count : 0;
        }

        Assert.Equal(CoveragePlanner.Count(table, plan.Ranges).Uncovered, uncovered);
        MappingTable.Cursor cursor = table.Seek(0);
        while (cursor.MoveNext())
        {
            IovaPages iova = cursor.Current.Iova;
            ulong reached = iova.First;
            foreach (IovaPages range in seen.Where(r => r.Overlaps(iova)).OrderBy(r => r.First).TakeWhile(r => r.First <= reached))
                reached = range.End;
            Assert.True(!cursor.Current.Writable || reached >= iova.End, $"seed {seed}: {iova} is seen up to page {reached}");
        }
    }
}
