using System.Collections.Concurrent;

namespace Godwit.Vfio.Tests;

public sealed class OracleTests
{
    /// <summary>Lives in CI; by hand <c>GODWIT_ORACLE_RUNS</c> asks for more, from <c>GODWIT_ORACLE_SEED</c> on.</summary>
    private static readonly int Runs = Setting("GODWIT_ORACLE_RUNS", 200_000);
    private static readonly int FirstSeed = Setting("GODWIT_ORACLE_SEED", 0);

    /// <summary>Lives in which a fault must be seen. A fault that needs more of them could hide in the tracker.</summary>
    private const int MutationBudget = 2000;

    [Fact]
    public void NoPageIsLostInAnyInterleaving()
    {
        var totals = new LifeTotals();
        var findings = new ConcurrentQueue<string>();
        TimeSpan began = Environment.CpuUsage.TotalTime;
        Parallel.ForEach(
            Partitioner.Create(FirstSeed, FirstSeed + Runs, Math.Max(1, Math.Min(2000, Runs / 8))),
            new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount },
            (range, state) =>
            {
                using var world = new World();
                var mine = new LifeTotals();
                for (int seed = range.Item1; seed < range.Item2 && findings.IsEmpty; seed++)
                {
                    if (world.Judge(seed, Mutation.None, mine) is { } lost)
                        findings.Enqueue(lost);
                }

                lock (totals)
                    totals.Add(mine);
            });
        TestContext.Current.TestOutputHelper?.WriteLine($"{totals}; seeds {FirstSeed} to {FirstSeed + Runs - 1}, {(Environment.CpuUsage.TotalTime - began).TotalMicroseconds / Runs:0} µs of this process each");
        Assert.Empty(findings);
        // The oracle must have had something to judge.
        Assert.Equal(Runs, totals.Lives);
        Assert.True(totals.Writes > 20 * totals.Lives, totals.ToString());
        Assert.True(totals.Completed > totals.Lives / 2, totals.ToString());
        Assert.True(totals is { Cancelled: > 0, Failed: > 0, Rearms: > 0, Switches: > 0 }, totals.ToString());
    }

    /// <summary>Proof of the proof: every fault that can be put in is seen within a small part of the lives of CI.</summary>
    [Theory]
    [MemberData(nameof(Faults))]
    public void TheOracleSeesTheFault(Mutation mutation)
    {
        using var world = new World();
        var totals = new LifeTotals();
        for (int seed = 0; seed < MutationBudget; seed++)
        {
            if (world.Judge(seed, mutation, totals) is { } lost)
            {
                TestContext.Current.TestOutputHelper?.WriteLine($"{mutation} was seen in life {seed + 1}, after {totals.Steps} steps: {lost}");
                return;
            }
        }

        Assert.Fail($"{mutation} was not seen in {totals}");
    }

    public static TheoryData<Mutation> Faults() => [.. Enum.GetValues<Mutation>().Where(m => m != Mutation.None)];

    private static int Setting(string name, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(name), System.Globalization.CultureInfo.InvariantCulture, out int value) ? value : otherwise;
}
