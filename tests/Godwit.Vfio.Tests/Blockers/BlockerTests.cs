using Godwit.Memory;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>Every reason against: it appears with its cause, says it by type, and is not there without.</summary>
public sealed class BlockerTests
{
    [Fact]
    public void AWholeDeviceHasNone()
    {
        using var machine = new PassthroughMachine();
        Assert.Empty(machine.Function.QueryBlockers(1));
    }

    [Fact]
    public void SwitchedOffByTheUser()
    {
        using var machine = new PassthroughMachine(configure: o => o with { EnableMigration = false });
        AssertOnly<MigrationDisabledBlocker>(machine, "device-migration-disabled");
        using var on = new PassthroughMachine(configure: o => o with { EnableMigration = true });
        Assert.Empty(on.Function.QueryBlockers(1));
    }

    [Fact]
    public void NoMigrationOfState()
    {
        using var machine = new PassthroughMachine(With(d => d with { Migration = MigrationSupport.None }));
        AssertOnly<DeviceWithoutMigrationBlocker>(machine, "device-without-migration");
        using var other = new PassthroughMachine(With(d => d with { Migration = MigrationSupport.StopCopy }));
        Assert.Empty(other.Function.QueryBlockers(1));
    }

    [Fact]
    public void NoLogOfDma()
    {
        using var machine = new PassthroughMachine(With(d => d with { DmaLogging = false }));
        AssertOnly<NoDirtySourceBlocker>(machine, "no-dirty-source");
        using var all = new PassthroughMachine(With(d => d with { DmaLogging = false }), configure: o => o with { DirtyTracking = DirtyTrackingMode.Pessimistic });
        Assert.Empty(all.Function.QueryBlockers(1));
    }

    [Fact]
    public void SeveralDevicesWithoutPeerToPeerStates()
    {
        using var machine = new PassthroughMachine();
        Assert.Equal(2, Assert.IsType<NoPeerToPeerBlocker>(Assert.Single(machine.Function.QueryBlockers(2))).Devices);
        Assert.Empty(machine.Function.QueryBlockers(1)); // the other one was unplugged
        using var capable = new PassthroughMachine(With(d => d with { Migration = MigrationSupport.StopCopy | MigrationSupport.P2P }));
        Assert.Empty(capable.Function.QueryBlockers(2));
    }

    [Fact]
    public void AVIommuWithoutAnEndOfItsApertureIsNone()
    {
        using var machine = new PassthroughMachine(attributes: new IommuAttributes(true, null));
        Assert.Empty(machine.Function.QueryBlockers(1)); // its log follows what the guest maps
        using var remapsOnly = new PassthroughMachine(attributes: new IommuAttributes(false, null));
        Assert.Empty(remapsOnly.Function.QueryBlockers(1));
    }

    [Fact]
    public void ALostDevice()
    {
        using var machine = new PassthroughMachine();
        Assert.Empty(machine.Function.QueryBlockers(1));
        machine.KillDevice();
        machine.AwaitLoss();
        AssertOnly<DeviceLostBlocker>(machine, "device-lost");
    }

    [Fact]
    public void BeforeItIsPluggedOnlyTheDevicesOwnReasonsAreKnown()
    {
        using var machine = new PassthroughMachine(attributes: new IommuAttributes(true, null), attach: false);
        Assert.Empty(machine.Function.QueryBlockers(1));
    }

    private static DmaTestDevice With(Func<DeviceDescription, DeviceDescription> change) =>
        new() { Description = change(new DmaTestDevice().Description) };

    private static void AssertOnly<T>(PassthroughMachine machine, string code)
        where T : MigrationBlocker
    {
        MigrationBlocker blocker = Assert.Single(machine.Function.QueryBlockers(1));
        Assert.IsType<T>(blocker);
        Assert.Equal(code, blocker.Code);
        Assert.Equal("dev0", blocker.Subject);
        Assert.Contains(code, blocker.ToString(), StringComparison.Ordinal);
    }
}
