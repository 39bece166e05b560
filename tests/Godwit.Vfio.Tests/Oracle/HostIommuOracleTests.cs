namespace Godwit.Vfio.Tests;

/// <summary>The invariant for the dirty bits of the host's IOMMU, in both shapes.</summary>
public sealed class HostIommuOracleTests
{
    private static readonly int Runs =
        int.TryParse(Environment.GetEnvironmentVariable("GODWIT_HOST_IOMMU_RUNS"), System.Globalization.CultureInfo.InvariantCulture, out int runs) ? runs : 3000;

    [Fact]
    public void NoPageIsLostInAnyInterleaving()
    {
        long writes = 0;
        int completed = 0, failed = 0, lastMoments = 0;
        for (int seed = 0; seed < Runs; seed++)
        {
            HostIommuLife life;
            try
            {
                if (HostIommuLife.Judge(seed, HostIommuFault.None, out life) is { } lost)
                    Assert.Fail(lost);
            }
            catch (Exception e) when (e is not Xunit.Sdk.FailException)
            {
                throw new InvalidOperationException($"Seed {seed}: {e.Message}", e);
            }

            writes += life.Writes;
            completed += life.Completed;
            failed += life.Failed;
            lastMoments += life.LastMoments;
        }

        TestContext.Current.TestOutputHelper?.WriteLine($"{Runs} interleavings, {writes} DMA writes, {completed} migrations completed, {failed} failed, {lastMoments} writes through a mapping that was going");
        // The oracle must have had something to judge.
        Assert.True(writes > 50L * Runs, $"only {writes} writes");
        Assert.True(completed > Runs, $"only {completed} migrations completed");
        Assert.True(failed > 0);
        Assert.True(lastMoments > Runs, $"only {lastMoments} writes through mappings that were going");
    }

    [Theory]
    [InlineData(HostIommuFault.DropUnmapHarvest)]
    [InlineData(HostIommuFault.QueryBeforeUnmap)]
    [InlineData(HostIommuFault.CutMappings)]
    [InlineData(HostIommuFault.ForgetAfterLoss)]
    public void TheOracleSeesTheFault(HostIommuFault fault)
    {
        for (int seed = 0; seed < 200; seed++)
        {
            if (HostIommuLife.Judge(seed, fault, out _) is { } lost)
            {
                TestContext.Current.TestOutputHelper?.WriteLine($"{fault} was seen: {lost}");
                return;
            }
        }

        Assert.Fail($"{fault} was not seen in 200 interleavings");
    }
}
