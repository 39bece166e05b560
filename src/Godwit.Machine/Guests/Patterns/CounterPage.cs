namespace Godwit.Machine.Guests.Patterns;

/// <summary>
/// A page of the CPU's working set: in each of its eight 512-byte parts the number of the sweep that wrote it last, and a hash of that,
/// the page and the part. The guest knows which sweep it must be: a page that was lost on the way, wholly or in part, is noticed.
/// </summary>
internal static class CounterPage
{
    public const int Words = 512;
    private const int Parts = 8;
    private const int WordsPerPart = Words / Parts;

    public static void Fill(Span<ulong> page, ulong seed, ulong number, ulong sweep)
    {
        for (int part = 0; part < Parts; part++)
        {
            page[part * WordsPerPart] = sweep;
            page[(part * WordsPerPart) + 1] = Hash(seed, number, sweep, part);
        }
    }

    /// <summary>Whether all parts are of <paramref name="sweep"/>; if not, what the first wrong one says.</summary>
    public static bool Matches(ReadOnlySpan<ulong> page, ulong seed, ulong number, ulong sweep, out ulong actual)
    {
        for (int part = 0; part < Parts; part++)
        {
            actual = page[part * WordsPerPart];
            if (actual != sweep || page[(part * WordsPerPart) + 1] != Hash(seed, number, sweep, part))
                return false;
        }

        actual = sweep;
        return true;
    }

    private static ulong Hash(ulong seed, ulong number, ulong sweep, int part) =>
        SectorPattern.Mix(seed ^ (number * 0x9E37_79B9_7F4A_7C15) ^ (sweep << 3) ^ (uint)part);
}
