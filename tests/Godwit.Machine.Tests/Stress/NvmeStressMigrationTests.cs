using Godwit.Migration;

namespace Godwit.Machine.Tests;

/// <summary>The guest moves to another machine, its device to another server on the same image, while both work.</summary>
public sealed class NvmeStressMigrationTests : IDisposable
{
    private readonly TempImage _image = new();
    private readonly string _uri = $"unix:{Path.Combine(Path.GetTempPath(), $"godwit-{Guid.NewGuid():N}.sock")}";

    public void Dispose() => _image.Dispose();

    [Theory]
    [InlineData(IommuKind.Intel, 39, "iommu=translate", "map=strict")]
    [InlineData(IommuKind.Intel, 48, "iommu=translate", "map=lazy")]
    [InlineData(IommuKind.Intel, 39, "iommu=passthrough", "map=strict")]
    [InlineData(IommuKind.None, 39, "iommu=off", "map=strict")]
    public void It_goes_on_in_another_machine(IommuKind kind, int width, string iommu, string map)
    {
        using var source = new StressRig(_image.FilePath, kind, width, 4096, null, "region=8M", iommu, map);
        using var destination = new StressRig(_image.FilePath, kind, width, 4096, null, "region=8M", iommu, map);
        using SemaphoreSlim arrived = Watch(destination.Machine, RunState.Running);
        using SemaphoreSlim left = Watch(source.Machine, RunState.PostMigrate);
        destination.Machine.StartIncoming(_uri);
        source.Machine.Start();
        source.WaitFor(r => StressRig.Commands(r) > 1000, "commands before");
        source.Machine.Migration.Parameters = source.Machine.Migration.Parameters with { VerifyPages = true };
        source.Machine.Migration.Start(_uri);
        Assert.True(arrived.Wait(Deadline.Generous), Explain(source, destination));
        Assert.True(left.Wait(Deadline.Generous), Explain(source, destination));

        long before = StressRig.Commands(source.Machine.QueryGuest());
        destination.WaitFor(r => StressRig.Commands(r) > before + 2000, "commands after");
        destination.Machine.Stop();
        StressRig.AssertClean(destination.Machine.QueryGuest());
        PageVerification? verification = source.Machine.Migration.Status.Verification;
        Assert.NotNull(verification);
        Assert.Equal(0, verification.PagesDiffering);
        Assert.Equal(RunState.PostMigrate, source.Machine.RunState);
    }

    [Fact]
    public void A_machine_paused_in_the_middle_of_a_migration_arrives_paused_and_goes_on_there()
    {
        using var source = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=8M");
        using var destination = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=8M");
        using SemaphoreSlim arrived = Watch(destination.Machine, RunState.Paused);
        using SemaphoreSlim passed = new(0);
        source.Machine.Migration.PassStarted += _ => passed.Release();
        destination.Machine.StartIncoming(_uri);
        source.Machine.Start();
        source.WaitFor(r => StressRig.Commands(r) > 1000, "commands before");

        // So slow that it cannot be over before the pause; then as fast as it goes.
        source.Machine.Migration.Parameters = source.Machine.Migration.Parameters with { MaxBandwidth = 1 << 20 };
        source.Machine.Migration.Start(_uri);
        passed.Wait("the first round");
        source.Machine.Stop();
        source.Machine.Migration.Parameters = source.Machine.Migration.Parameters with { MaxBandwidth = 0 };
        Assert.True(arrived.Wait(Deadline.Generous), Explain(source, destination));

        long before = StressRig.Commands(source.Machine.QueryGuest());
        Assert.Equal(before, StressRig.Commands(destination.Machine.QueryGuest()));
        destination.Machine.Continue();
        destination.WaitFor(r => StressRig.Commands(r) > before + 1000, "commands after");
        destination.Machine.Stop();
        StressRig.AssertClean(destination.Machine.QueryGuest());
    }

    [Fact]
    public void A_cancelled_migration_leaves_the_guest_running_without_a_mismatch()
    {
        using var source = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=8M");
        using var destination = new StressRig(_image.FilePath, IommuKind.Intel, 39, 4096, null, "region=8M");
        using SemaphoreSlim passed = new(0);
        using SemaphoreSlim cancelled = new(0);
        source.Machine.Migration.PassStarted += _ => passed.Release();
        source.Machine.Migration.StateChanged += state =>
        {
            if (state == MigrationState.Cancelled)
                cancelled.Release();
        };
        destination.Machine.StartIncoming(_uri);
        source.Machine.Start();
        source.WaitFor(r => StressRig.Commands(r) > 500, "commands before");
        source.Machine.Migration.Parameters = source.Machine.Migration.Parameters with { MaxBandwidth = 1 << 20 };
        source.Machine.Migration.Start(_uri);
        passed.Wait("the first round");
        source.Machine.Migration.Cancel();
        cancelled.Wait("the cancel");

        long before = StressRig.Commands(source.Machine.QueryGuest());
        source.WaitFor(r => StressRig.Commands(r) > before + 1000, "commands after");
        source.Machine.Stop();
        StressRig.AssertClean(source.Machine.QueryGuest());
        Assert.NotEqual(RunState.Running, destination.Machine.RunState);
    }

    private static SemaphoreSlim Watch(VirtualMachine machine, RunState state)
    {
        var signal = new SemaphoreSlim(0);
        machine.RunStateChanged += (_, to) =>
        {
            if (to == state)
                signal.Release();
        };
        return signal;
    }

    private static string Explain(StressRig source, StressRig destination) =>
        $"source: {source.Machine.Migration.Status}\ndestination: {destination.Machine.Migration.Status}\n"
        + $"{string.Join('\n', source.Notices)}\n{string.Join('\n', destination.Notices)}\n{source.Server.Log}\n{destination.Server.Log}";
}
