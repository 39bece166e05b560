using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>What a sync does next.</summary>
internal enum SyncStepKind
{
    /// <summary>Nothing is left.</summary>
    End,

    /// <summary>Ask the log about a window.</summary>
    Report,

    /// <summary>A mapped, writable range that the log does not cover: it counts as dirty.</summary>
    Uncovered,
}

/// <summary>One step.</summary>
/// <param name="Kind">Its kind.</param>
/// <param name="Range">The window, or the uncovered range.</param>
/// <param name="Ram">The RAM behind an uncovered range.</param>
internal readonly record struct SyncStep(SyncStepKind Kind, IovaPages Range, RamPage Ram);

/// <summary>
/// Cuts tables of mappings into reports: aligned windows that contain mappings, joined while they lie close together (dirty-tracking rule 6).
/// Pure: the same tables give the same steps. What is mapped by several tables is asked for once.
/// </summary>
/// <param name="coverage">What the log is armed for, ascending.</param>
/// <param name="windowPages">
/// Alignment of reports: 64 tracking pages, a word of the bitmap, because devices clear whole words (seed-series D9).
/// </param>
/// <param name="granulePages">4 KiB pages in a tracking page.</param>
/// <param name="budgetPages">Longest report; a multiple of <paramref name="windowPages"/>.</param>
/// <param name="bridgePages">
/// Widest gap between windows of one report. A gap costs 8 bytes a window, a report a round trip to the device.
/// </param>
internal readonly struct SyncSteps(ReadOnlyMemory<IovaPages> coverage, ulong windowPages, ulong granulePages, ulong budgetPages, ulong bridgePages)
{
    /// <summary>Mappings in a row, looked at one by one, from which on most of them are passed over.</summary>
    private const int Dense = 16;

    /// <summary>
    /// The step for what lies at or above <paramref name="next"/>, which moves on behind it. The tables may be changing: what is in one of them
    /// throughout is in a step.
    /// </summary>
    public SyncStep Next(ref MappingWalk walk, ref ulong next)
    {
        ReadOnlySpan<IovaPages> covered = coverage.Span;
        ulong start = 0, end = 0; // the run so far; none while end is 0
        int inRange = -1, inRow = 0;
        walk.Seek(next);
        while (walk.MoveNext(out Mapping mapping))
        {
            if (!mapping.Writable)
                continue;
            ulong from = Math.Max(mapping.Iova.First, next);
            while (from < mapping.Iova.End)
            {
                int c = FirstEndingAbove(covered, from);
                if (c == covered.Length || covered[c].First > from)
                {
                    if (end > 0)
                        return Finish(start, end, ref next);
                    ulong stop = c == covered.Length ? mapping.Iova.End : Math.Min(mapping.Iova.End, covered[c].First);
                    next = stop;
                    return new SyncStep(SyncStepKind.Uncovered, IovaPages.Between(from, stop), mapping.Ram + (from - mapping.Iova.First));
                }

                ulong piece = Math.Min(mapping.Iova.End, covered[c].End);
                ulong low = Math.Max(IovaPages.Down(from, windowPages), IovaPages.Down(covered[c].First, granulePages));
                ulong high = Math.Min(IovaPages.Up(piece, windowPages), IovaPages.Up(covered[c].End, granulePages));
                if (end == 0)
                    (start, end, inRange) = (low, low, c);
                else if (c != inRange || low > end + bridgePages || low >= start + budgetPages)
                    return Finish(start, end, ref next);

                ulong limit = IovaPages.Down(start + budgetPages, windowPages);
                end = Math.Max(end, Math.Min(high, limit));
                if (high > limit)
                    return Finish(start, end, ref next);
                from = piece;
            }

            if (++inRow >= Dense && inRange >= 0)
                inRow = TryPassOver(ref walk, Math.Min(covered[inRange].End, start + budgetPages), ref end) ? Dense : 0;
        }

        if (end > 0)
            return Finish(start, end, ref next);
        return default;
    }

    /// <summary>
    /// Lengthens a report to where every gap that could lie in it is narrow enough to be in it anyway, instead of looking at each mapping there. What is
    /// asked is the same but for gaps up to the end of the budget. False when nothing was passed over: the walk is behind <paramref name="end"/> then.
    /// </summary>
    private bool TryPassOver(ref MappingWalk walk, ulong limit, ref ulong end)
    {
        ulong far = IovaPages.Down(end + bridgePages / 2, windowPages);
        if (far <= end || far > limit)
            return false;
        walk.Seek(far);
        bool any = walk.MoveNext(out Mapping mapping);
        bool passes = any && mapping.Writable && mapping.Iova.First <= end + bridgePages;
        if (passes)
            end = far;
        walk.Seek(end);
        return passes;
    }

    private static SyncStep Finish(ulong start, ulong end, ref ulong next)
    {
        next = end;
        return new SyncStep(SyncStepKind.Report, IovaPages.Between(start, end), default);
    }

    private static int FirstEndingAbove(ReadOnlySpan<IovaPages> ranges, ulong page)
    {
        int low = 0, high = ranges.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (ranges[middle].End <= page)
                low = middle + 1;
            else
                high = middle;
        }

        return low;
    }
}
