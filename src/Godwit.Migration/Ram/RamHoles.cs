using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Which parts of a block's file have never been written: they hold zeros, and reading them through the mapping would make the kernel
/// allocate them (lseek(2), SEEK_DATA and SEEK_HOLE on a memfd).
/// </summary>
/// <remarks>
/// An answer is about the moment of the call. A sender asks <b>after</b> draining a page's mark, as it would read the page: a write before
/// is seen, a later one marks the page again.
/// </remarks>
internal static class RamHoles
{
    /// <summary>The first offset from <paramref name="offset"/> that may hold something else than zeros; the block's size when none does.</summary>
    internal static ulong NextData(RamBlock block, ulong offset)
    {
        long found = unistd.lseek(block.File, (long)offset, unistd.SEEK_DATA);
        if (found >= 0)
            return Math.Min((ulong)found & ~(ulong)(RamPage.Size - 1), block.Size);
        // ENXIO: no data from here to the end. Any other answer: a file system without the feature; then everything may hold something.
        return (Errno)Marshal.GetLastPInvokeError() == Errno.ENXIO ? block.Size : offset;
    }

    /// <summary>The first offset from <paramref name="offset"/>, which is data, that begins a hole; the block's size when none does.</summary>
    internal static ulong NextHole(RamBlock block, ulong offset)
    {
        long found = unistd.lseek(block.File, (long)offset, unistd.SEEK_HOLE);
        return found >= 0 ? Math.Min(((ulong)found + RamPage.Size - 1) & ~(ulong)(RamPage.Size - 1), block.Size) : block.Size;
    }
}
