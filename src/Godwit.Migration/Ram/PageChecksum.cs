using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// A 128-bit checksum of a page, to compare two machines' memory. Not cryptographic: it finds what a bug loses, not what somebody hides.
/// </summary>
/// <remarks>
/// Four 64-bit lanes, each taking every fourth word: xor it in, multiply by an odd constant to 128 bits, xor the halves. The order of the
/// words matters, so moved data shows as well. Independent of the stream's CRCs and of dirty tracking.
/// </remarks>
internal static unsafe class PageChecksum
{
    /// <summary>Bytes of a checksum.</summary>
    internal const int Size = 16;

    // Odd, with as many ones as zeros and no pattern: the fractional parts of the square roots of 2, 3, 5 and 7.
    private const ulong Prime0 = 0x6A09E667F3BCC909;
    private const ulong Prime1 = 0xBB67AE8584CAA73B;
    private const ulong Prime2 = 0x3C6EF372FE94F82B;
    private const ulong Prime3 = 0xA54FF53A5F1D36F1;

    private static readonly UInt128 OfZeros = ComputeOfZeros();

    // Pieces handed to the processors; large enough that handing over costs nothing.
    private const int PagesPerPiece = 256;

    /// <summary>Checksums of <paramref name="run"/>'s pages into <paramref name="sums"/>, <see cref="Size"/> bytes each, on all processors.</summary>
    /// <remarks>Pieces that the kernel has never allocated are zeros by its word; reading them would allocate them.</remarks>
    internal static void ComputeRun(RamBlock block, in PageRun run, byte[] sums)
    {
        ulong first = run.FirstPage;
        int count = (int)run.Count;
        Parallel.For(0, (count + PagesPerPiece - 1) / PagesPerPiece, piece =>
        {
            int from = piece * PagesPerPiece;
            int to = Math.Min(count, from + PagesPerPiece);
            bool hole = RamHoles.NextData(block, (first + (ulong)from) << RamPage.Shift) >= (first + (ulong)to) << RamPage.Shift;
            fixed (byte* target = sums)
            {
                if (hole)
                {
                    // SAFETY: sums has room for the run, so for this piece of it.
                    new Span<UInt128>(target + ((long)from * Size), to - from).Fill(OfZeros);
                    return;
                }

                for (int i = from; i < to; i++)
                {
                    // SAFETY: the caller has checked the run against the block, and sums is sized for it.
                    Compute(block.Pointer + ((first + (ulong)i) << RamPage.Shift), (ulong*)(target + ((long)i * Size)));
                }
            }
        });
    }

    /// <summary>The checksum of one page into two words.</summary>
    /// <remarks>The caller vouches for a readable page and 16 writable bytes.</remarks>
    [SkipLocalsInit]
    internal static void Compute(byte* page, ulong* sum)
    {
        ulong lane0 = Prime3, lane1 = Prime2, lane2 = Prime1, lane3 = Prime0;
        // SAFETY: 4096 is a multiple of 32.
        for (byte* end = page + RamPage.Size; page < end; page += 32)
        {
            lane0 = Fold(lane0 ^ *(ulong*)page, Prime0);
            lane1 = Fold(lane1 ^ *(ulong*)(page + 8), Prime1);
            lane2 = Fold(lane2 ^ *(ulong*)(page + 16), Prime2);
            lane3 = Fold(lane3 ^ *(ulong*)(page + 24), Prime3);
        }

        // Each half depends on all lanes.
        sum[0] = Fold(lane0 ^ Prime1, lane1 ^ Prime2) + Fold(lane2 ^ Prime3, lane3 ^ Prime0);
        sum[1] = Fold(lane0 ^ Prime2, lane2 ^ Prime1) + (Fold(lane1 ^ Prime0, lane3 ^ Prime3) * Prime0);
    }

    private static UInt128 ComputeOfZeros()
    {
        byte* page = (byte*)NativeMemory.AlignedAlloc(RamPage.Size, RamPage.Size);
        try
        {
            // SAFETY: a page just allocated and cleared, and 16 bytes of stack.
            NativeMemory.Clear(page, RamPage.Size);
            UInt128 sum;
            Compute(page, (ulong*)&sum);
            return sum;
        }
        finally
        {
            NativeMemory.AlignedFree(page);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Fold(ulong left, ulong right)
    {
        ulong high = Math.BigMul(left, right, out ulong low);
        return high ^ low;
    }
}
