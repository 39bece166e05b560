using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>Finds pages of zeros.</summary>
internal static unsafe class ZeroPage
{
    /// <summary>
    /// Whether the page holds zeros only. The guest may be writing: then the answer is about some moment during the call, and the write's
    /// mark sends the page again.
    /// </summary>
    /// <remarks>The caller vouches that <paramref name="page"/> is a readable, aligned page.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static bool IsZero(byte* page)
    {
        // Most pages that are not zero show it in the first bytes.
        // SAFETY: within the page.
        return *(ulong*)page == 0 && IsZeroThroughout(page);
    }

    private static bool IsZeroThroughout(byte* page)
    {
        // SAFETY: 4096 is a multiple of 128, so the loop reads the page and no more.
        for (byte* end = page + RamPage.Size; page < end; page += 4 * Vector256<byte>.Count)
        {
            Vector256<byte> any = Vector256.Load(page)
                | Vector256.Load(page + Vector256<byte>.Count)
                | Vector256.Load(page + (2 * Vector256<byte>.Count))
                | Vector256.Load(page + (3 * Vector256<byte>.Count));
            if (any != Vector256<byte>.Zero)
                return false;
        }

        return true;
    }
}
