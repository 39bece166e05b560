namespace Godwit.Vfio.Tests;

public sealed class OracleTests
{
    /// <summary>Interleavings in CI; by hand <c>GODWIT_ORACLE_RUNS</c> asks for more, from <c>GODWIT_ORACLE_SEED</c> on.</summary>
    private static readonly int Runs = Setting("GODWIT_ORACLE_RUNS", 3000);
    private static readonly int FirstSeed = Setting("GODWIT_ORACLE_SEED", 0);

    [Fact]
    public void NoPageIsLostInAnyInterleaving()
    {
        long writes = 0;
        int completed = 0, failed = 0, rearms = 0;
        for (int seed = FirstSeed; seed < FirstSeed + Runs; seed++)
        {
            Interleaving life;
            try
            {
                if (Interleaving.Judge(seed, Mutation.None, out life) is { } lost)
                    Assert.Fail(lost);
            }
            catch (Exception e) when (e is not Xunit.Sdk.FailException)
            {
                throw new InvalidOperationException($"Seed {seed}: {e.Message}", e);
            }

            writes += life.Writes;
            completed += life.Completed;
            failed += life.Failed;
            rearms += life.Rearms;
        }

        TestContext.Current.TestOutputHelper?.WriteLine($"{Runs} interleavings, {writes} DMA writes, {completed} migrations completed, {failed} failed with a lost log, {rearms} logs started anew");
        // The oracle must have had something to judge.
        Assert.True(writes > 50L * Runs, $"only {writes} writes");
        Assert.True(completed > Runs, $"only {completed} migrations completed");
        Assert.True(failed > 0);
        Assert.True(rearms > 0);
    }

    /// <summary>Proof of the proof: every fault that can be put in is seen within a few interleavings.</summary>
    [Theory]
    [InlineData(Mutation.DropUnmapHarvest)]
    [InlineData(Mutation.WalkGuestTables)]
    [InlineData(Mutation.ClearNeighbours)]
    [InlineData(Mutation.GpaAsRamOffset)]
    [InlineData(Mutation.ForgetAfterLoss)]
    [InlineData(Mutation.ForgetAfterRearm)]
    [InlineData(Mutation.HarvestDropsNeighbours)]
    public void TheOracleSeesTheFault(Mutation mutation)
    {
        for (int seed = 0; seed < 200; seed++)
        {
            if (Interleaving.Judge(seed, mutation, out _) is { } lost)
            {
                TestContext.Current.TestOutputHelper?.WriteLine($"{mutation} was seen: {lost}");
                return;
            }
        }

        Assert.Fail($"{mutation} was not seen in 200 interleavings");
    }

    private static int Setting(string name, int otherwise) =>
        int.TryParse(Environment.GetEnvironmentVariable(name), System.Globalization.CultureInfo.InvariantCulture, out int value) ? value : otherwise;
}
