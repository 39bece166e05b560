using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>
/// Numbers all free page frames (from <see cref="LowBase"/> up to the end of low RAM, then all high RAM) in an order in which neighbours
/// are far apart, so that whatever takes the first N frames is scattered over the machine's whole memory.
/// </summary>
internal struct FramePermutation
{
    public Gpa LowBase;
    public ulong LowFrames;
    public Gpa HighBase;
    public ulong Frames;
    public ulong Stride;

    public static FramePermutation Create(Gpa lowBase, ulong lowFrames, Gpa highBase, ulong highFrames)
    {
        ulong frames = lowFrames + highFrames;

        // Near the golden section, where multiples spread evenly; coprime, so that all frames are reached once.
        ulong stride = Math.Max((ulong)(frames * 0.618), 1);
        while (Gcd(stride, frames) != 1)
            stride++;
        return new FramePermutation { LowBase = lowBase, LowFrames = lowFrames, HighBase = highBase, Frames = frames, Stride = stride };
    }

    /// <summary>The page that is number <paramref name="index"/> in the order.</summary>
    public readonly Gpa this[ulong index]
    {
        get
        {
            ulong frame = (ulong)((UInt128)index * Stride % Math.Max(Frames, 1));
            return frame < LowFrames ? LowBase + (frame << RamPage.Shift) : HighBase + ((frame - LowFrames) << RamPage.Shift);
        }
    }

    private static ulong Gcd(ulong a, ulong b)
    {
        while (b != 0)
            (a, b) = (b, a % b);
        return a;
    }
}
