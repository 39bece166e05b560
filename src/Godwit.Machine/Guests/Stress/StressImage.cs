using System.Runtime.InteropServices;
using Godwit.Machine.Guests.Patterns;
using Godwit.Machine.Guests.Stress;

namespace Godwit.Machine;

/// <summary>What a disk holds that <c>nvme-stress</c> has used.</summary>
/// <param name="Blocks">Blocks of 4 KiB looked at.</param>
/// <param name="Written">Blocks that hold one generation of the guest's pattern, whole and in its place.</param>
/// <param name="Empty">Blocks of zeros: never written, zeroed or deallocated.</param>
/// <param name="Wrong">Blocks that hold anything else: torn, of another place, or not the guest's.</param>
/// <param name="FirstWrong">The first few of these, one line each.</param>
public sealed record StressImageReport(long Blocks, long Written, long Empty, long Wrong, IReadOnlyList<string> FirstWrong);

/// <summary>
/// Looks at the disk of a stopped <c>nvme-stress</c> from outside, with nothing but the seed: a second opinion beside the guest's own
/// verification, which knows which generation each block must have but sees the disk through the device.
/// </summary>
public static class StressImage
{
    private const int BlockBytes = StressOptions.BlockSize;
    private const int SectorBytes = SectorPattern.Words * sizeof(ulong);
    private const int Listed = 8;

    /// <summary>Reads <paramref name="image"/> from its position to its end. No machine may be writing to it.</summary>
    /// <param name="image">The disk; what lies behind the last whole block of 4 KiB is not looked at.</param>
    /// <param name="seed">The guest's option <c>seed</c>.</param>
    public static StressImageReport Check(Stream image, ulong seed)
    {
        ArgumentNullException.ThrowIfNull(image);
        ulong[] words = new ulong[BlockBytes / sizeof(ulong)];
        var wrong = new List<string>();
        long blocks = 0, written = 0, empty = 0, bad = 0;
        for (; image.ReadAtLeast(MemoryMarshal.AsBytes(words.AsSpan()), BlockBytes, throwOnEndOfStream: false) == BlockBytes; blocks++)
        {
            if (!words.AsSpan().ContainsAnyExcept(0UL))
            {
                empty++;
            }
            else if (FindWrongSector(words, seed, (ulong)blocks) is not { } sector)
            {
                written++;
            }
            else
            {
                bad++;
                if (wrong.Count < Listed)
                    wrong.Add($"block {blocks}, sector {sector} (byte 0x{(blocks * BlockBytes) + (sector * SectorBytes):x})");
            }
        }

        return new StressImageReport(blocks, written, empty, bad, wrong);
    }

    /// <summary>The first sector that does not belong to the generation that the block's first sector names; null when all do.</summary>
    private static int? FindWrongSector(ReadOnlySpan<ulong> block, ulong seed, ulong number)
    {
        ulong generation = block[1];
        ulong key = SectorPattern.Key(seed, number, generation);
        for (int i = 0; i < SectorPattern.SectorsPerBlock; i++)
        {
            if (!SectorPattern.Matches(block[(i * SectorPattern.Words)..], key, number, (uint)i, generation))
                return i;
        }

        return null;
    }
}
