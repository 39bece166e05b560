using System.Diagnostics;

namespace Godwit.Memory.Tests;

/// <summary>
/// Store-buffer litmus runs: two threads do their part of a round at the same instant, over and over with a varying offset, then one
/// looks at the outcome. A fence that is missing shows within a few thousand rounds on two processors; one processor proves nothing.
/// </summary>
internal static class Litmus
{
    private const int MostRounds = 100_000;

    // The effort that a run is worth; a busy machine makes fewer rounds.
    private static readonly TimeSpan Effort = TimeSpan.FromSeconds(3);

    /// <summary>Runs both sides in rounds numbered from 1 and <paramref name="judge"/> after each, when both are done.</summary>
    internal static void Run(Action<int> left, Action<int> right, Action<int> judge)
    {
        int arrived = 0;
        int rounds = MostRounds;
        var clock = Stopwatch.StartNew();
        Exception? failure = null;
        var other = new Thread(() =>
        {
            try
            {
                for (int round = 1; round <= Volatile.Read(ref rounds); round++)
                {
                    Meet(3 * round - 2);
                    Thread.SpinWait(round * 7 % 13);
                    right(round);
                    Meet(3 * round - 1);
                    Meet(3 * round);
                }
            }
            catch (Exception exception)
            {
                Volatile.Write(ref failure, exception);
                throw;
            }
        });
        other.Start();
        for (int round = 1; round <= Volatile.Read(ref rounds); round++)
        {
            Meet(3 * round - 2);
            Thread.SpinWait(round * 5 % 11);
            left(round);
            Meet(3 * round - 1);
            judge(round);
            if (clock.Elapsed > Effort)
                Volatile.Write(ref rounds, round);
            Meet(3 * round);
        }

        Assert.True(other.Join(TimeSpan.FromSeconds(30)));
        Assert.Null(failure);
        TestContext.Current.TestOutputHelper?.WriteLine($"{rounds} rounds");

        void Meet(int meeting)
        {
            Interlocked.Increment(ref arrived);
            // Spins before it yields: a partner that has been switched away would arrive late and never collide.
            for (int spins = 0; Volatile.Read(ref arrived) < 2 * meeting; spins++)
            {
                if (spins < 500)
                    Thread.SpinWait(1);
                else
                    Thread.Yield();
            }
        }
    }
}
