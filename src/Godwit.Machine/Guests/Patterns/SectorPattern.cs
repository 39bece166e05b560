namespace Godwit.Machine.Guests.Patterns;

/// <summary>
/// What a written sector of 512 bytes holds: where it belongs, of which generation it is, and 62 words that follow from the seed and
/// both. A sector that is old, torn, of another place or not written at all is told from the right one.
/// </summary>
internal static class SectorPattern
{
    public const int Words = 64;
    public const int SectorsPerBlock = 8;

    private const ulong Golden = 0x9E37_79B9_7F4A_7C15;

    /// <summary>What all sectors of a block of one generation share.</summary>
    public static ulong Key(ulong seed, ulong block, ulong generation) => Mix(Mix(seed ^ (block * Golden)) + generation);

    public static void Fill(Span<ulong> sector, ulong key, ulong block, uint index, ulong generation)
    {
        sector = sector[..Words];
        sector[0] = Tag(block, index);
        sector[1] = generation;
        ulong state = Start(key, index);
        for (int i = 2; i < sector.Length; i++)
        {
            state += Golden;
            sector[i] = state ^ (state >> 29);
        }
    }

    /// <summary>Whether the whole sector is as it must be.</summary>
    public static bool Matches(ReadOnlySpan<ulong> sector, ulong key, ulong block, uint index, ulong generation)
    {
        sector = sector[..Words];
        ulong difference = (sector[0] ^ Tag(block, index)) | (sector[1] ^ generation);
        ulong state = Start(key, index);
        for (int i = 2; i < sector.Length; i++)
        {
            state += Golden;
            difference |= sector[i] ^ state ^ (state >> 29);
        }

        return difference == 0;
    }

    /// <summary>The first word: block and place within it.</summary>
    public static ulong Tag(ulong block, uint index) => (block * SectorsPerBlock) + index;

    public static ulong Mix(ulong value)
    {
        value = (value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9;
        value = (value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB;
        return value ^ (value >> 31);
    }

    private static ulong Start(ulong key, uint index) => key + (index * 0xD1B5_4A32_D192_ED03);
}
