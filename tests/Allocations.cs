namespace Godwit.Tests;

/// <summary>
/// What an action allocates: the least of many turns, as the runtime books more than that. A collection, which any other test may cause, counts the rest of
/// each thread's allocation buffer as allocated; code that runs for the first time is compiled; a lock's first waiter makes its event. None of that happens in
/// every turn, and what the action itself allocates does.
/// </summary>
internal static class Allocations
{
    private const int Turns = 100;

    /// <summary>Bytes that <paramref name="action"/> allocates on this thread.</summary>
    public static long Of(Action action) => Least(0, action, GC.GetAllocatedBytesForCurrentThread);

    /// <summary>Bytes that all threads allocate while <paramref name="action"/> runs; looks no further once it is <paramref name="enough"/>. For tests that run alone.</summary>
    public static long OfProcess(long enough, Action action) => Least(enough, action, static () => GC.GetTotalAllocatedBytes(precise: true));

    private static long Least(long enough, Action action, Func<long> allocated)
    {
        long least = long.MaxValue;
        for (int turn = 0; turn < Turns && least > enough; turn++)
        {
            long before = allocated();
            action();
            least = Math.Min(least, allocated() - before);
        }

        return least;
    }
}
