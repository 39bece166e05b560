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
        using var machine = new PassthroughMachine(configure: o => o with { EnableMigration = EnableMigration.Off });
        AssertOnly<MigrationDisabledBlocker>(machine, "device-migration-disabled");
        using var on = new PassthroughMachine(configure: o => o with { EnableMigration = EnableMigration.Auto });
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

    /// <summary>A device that is plugged nevertheless, says what it lacks, and whose mappings of such pages are refused without asking it.</summary>
    [Fact]
    public void LargerPagesThanTheGuests()
    {
        using var machine = new PassthroughMachine(capabilities: Saying("\"pgsizes\":4096", "\"pgsizes\":65536"));
        AssertOnly<DevicePageSizeBlocker>(machine, "device-page-size");
        Assert.Equal(65536UL, Assert.IsType<DevicePageSizeBlocker>(Assert.Single(machine.Function.QueryBlockers(1))).PageSize);
        machine.Boot();
        machine.Map(0x200, ModelBoard.LowGpa, 16);
        machine.Map(0x1000, ModelBoard.LowGpa + 1);
        Assert.Equal(1ul, machine.Dma(0x200, 7));
        Assert.Equal(0ul, machine.Dma(0x1000, 7));
        Assert.Equal(1, machine.Function.Statistics.NotInstalled);
        Assert.Equal(["device-page-size", "device-refuses-mappings"], Codes(machine));
        machine.Unmap(0x1000);
        Assert.Equal(["device-page-size"], Codes(machine));
        machine.Unmap(0x200, 16);
        Assert.Equal(0ul, machine.Dma(0x200, 7));
        Assert.False(machine.Function.Lost.IsCompleted);

        // Small pages beside the large ones, or smaller ones, of which 4096 is a multiple.
        using var both = new PassthroughMachine(capabilities: Saying("\"pgsizes\":4096", "\"pgsizes\":69632"));
        Assert.Empty(both.Function.QueryBlockers(1));
        using var smaller = new PassthroughMachine(capabilities: Saying("\"pgsizes\":4096", "\"pgsizes\":2048"));
        Assert.Empty(smaller.Function.QueryBlockers(1));
    }

    [Fact]
    public void NoDescriptors()
    {
        using var machine = new PassthroughMachine(iommu: false, capabilities: Saying("\"max_msg_fds\":16", "\"max_msg_fds\":0"));
        AssertOnly<DeviceWithoutDescriptorsBlocker>(machine, "device-without-descriptors");
        machine.Boot(); // with MSI-X, whose eventfds it cannot be given
        Assert.Equal(["device-without-descriptors", "device-refuses-interrupts"], Codes(machine));
        Assert.Equal(1ul, machine.Dma(ModelBoard.LowGpa + 1, 0x77)); // by message
        Assert.Equal(0x77ul, machine.Ram(1));
        machine.Function.WriteConfig(machine.Function.Config.FindCapability(0x11)!.Value + 2, 0, 2);
        Assert.Equal(["device-without-descriptors"], Codes(machine));
        using var one = new PassthroughMachine(capabilities: Saying("\"max_msg_fds\":16", "\"max_msg_fds\":1"));
        one.Boot();
        Assert.Empty(one.Function.QueryBlockers(1));
    }

    [Fact]
    public void NoMappingsAtAll()
    {
        using var machine = new PassthroughMachine(iommu: false, capabilities: Saying("\"max_dma_maps\":1048576", "\"max_dma_maps\":0"));
        AssertOnly<MappingLimitBlocker>(machine, "device-mapping-limit");
        Assert.Equal(0, Assert.IsType<MappingLimitBlocker>(Assert.Single(machine.Function.QueryBlockers(1))).Limit);
        using var enough = new PassthroughMachine(iommu: false, capabilities: Saying("\"max_dma_maps\":1048576", "\"max_dma_maps\":9"));
        Assert.Empty(enough.Function.QueryBlockers(1));
    }

    /// <summary>What says nothing of itself has the specification's defaults; what nobody knows is passed over.</summary>
    [Theory]
    [InlineData("""{"capabilities":{}}""")]
    [InlineData("{}")]
    [InlineData("""{"capabilities":{"colour":{"of":["sea"]},"max_msg_fds":2},"mood":null}""")]
    public void MissingAndUnknownCapabilitiesAreNone(string text)
    {
        using var machine = new PassthroughMachine(capabilities: _ => text);
        machine.Boot();
        machine.Map(0x10, ModelBoard.LowGpa + 1);
        Assert.Equal(1ul, machine.Dma(0x10, 0x77));
        Assert.Empty(machine.Function.QueryBlockers(1));
    }

    [Theory]
    [InlineData("\"pgsizes\":4096", "\"pgsizes\":0", "pgsizes is 0")]
    [InlineData("\"max_data_xfer_size\":1048576", "\"max_data_xfer_size\":512", "max_data_xfer_size is 512; it must be from 4096")]
    [InlineData("\"max_msg_fds\":16", "\"max_msg_fds\":-1", "max_msg_fds is -1")]
    [InlineData("\"max_msg_fds\":16", "\"max_msg_fds\":1,\"max_msg_fds\":2", "max_msg_fds twice")]
    [InlineData("\"fd_index\":0", "\"fd_index\":1", "twin socket is descriptor 1 of 1")]
    [InlineData(",\"fd_index\":0", "", "twin socket is descriptor  of 1")]
    public void AnImpossibleCapabilityIsNamedWhenItIsPlugged(string said, string instead, string why)
    {
        using var server = new DeviceServer(new DmaTestDevice());
        using var relay = new CapabilityRelay(server.Path, Saying(said, instead));
        using var board = new ModelBoard(null, new Arrivals([]));
        var options = new VfioDeviceOptions { Id = "dev0", Socket = relay.Path, ReplyTimeout = DeviceServer.Patience };
        VfioAttachException e = Assert.Throws<VfioAttachException>(() => VfioPciFunction.Connect(options, board.Topology, board.Ram));
        Assert.Equal(relay.Path, e.Address);
        Assert.Contains(why, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void BeforeItIsPluggedOnlyTheDevicesOwnReasonsAreKnown()
    {
        using var machine = new PassthroughMachine(attributes: new IommuAttributes(true, null), attach: false);
        Assert.Empty(machine.Function.QueryBlockers(1));
    }

    private static Func<string, string> Saying(string said, string instead) => text =>
    {
        Assert.Contains(said, text, StringComparison.Ordinal);
        return text.Replace(said, instead, StringComparison.Ordinal);
    };

    private static string[] Codes(PassthroughMachine machine) => [.. machine.Function.QueryBlockers(1).Select(b => b.Code)];

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
