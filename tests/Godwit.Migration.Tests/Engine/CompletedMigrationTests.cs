namespace Godwit.Migration.Tests;

public sealed class CompletedMigrationTests
{
    [Theory]
    [InlineData("unix")]
    [InlineData("tcp")]
    [InlineData("tcp6")]
    [InlineData("localhost")]
    public void Everything_arrives_while_the_guest_writes(string transport)
    {
        int seed = Random.Shared.Next();
        using var source = new TestMachine(mebibytes: 32, devices: 2, twoBlocks: true);
        source.Fill(seed);
        using var pair = new Pair(source, new TestMachine(mebibytes: 32, devices: 2, running: false, twoBlocks: true), transport: transport);
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true, MinimumPrecopy = TimeSpan.FromMilliseconds(150), DowntimeLimit = TimeSpan.FromSeconds(1000) };
        source.AddDirtyingVcpu(seed, 256);
        source.AddDirtyingVcpu(seed + 1, 8192);

        pair.Migrate();

        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, $"seed {seed}: {status.Error}");
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.False(source.Executing);
        Assert.True(pair.DestinationMachine.Executing);
        Assert.Equal(source.Devices.Select(device => device.State), pair.DestinationMachine.Devices.Select(device => device.Loaded));
        Assert.Equal(source.States.Select(state => state.State), pair.DestinationMachine.States.Select(state => state.Loaded!));
        Assert.Null(TestMachine.FirstDifference(source, pair.DestinationMachine));
        Assert.Equal(0, status.Verification!.PagesDiffering);
        Assert.Equal(32 * 256, status.Verification.PagesCompared);
    }
}
