namespace Godwit.Vfio.Tests;

internal static class Allocations
{
    /// <summary>
    /// Bytes that <paramref name="action"/> allocates on this thread, the least of some turns: a collection that another test causes books the rest of this
    /// thread's allocation buffer as allocated.
    /// </summary>
    public static long Of(Action action)
    {
        long least = long.MaxValue;
        for (int turn = 0; turn < 5 && least > 0; turn++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            action();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        return least;
    }
}
