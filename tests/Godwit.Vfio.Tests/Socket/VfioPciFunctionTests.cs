using System.Buffers;
using Godwit.Memory;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

public sealed class VfioPciFunctionTests
{
    [Fact]
    public void TheGuestSeesTheDevicesIdentityBarsAndCapabilities()
    {
        using var machine = new PassthroughMachine();
        VfioPciFunction function = machine.Function;
        Assert.Equal(0x5678_1234u, function.ReadConfig(0x00, 4));
        Assert.Equal(0x010802_07u, function.ReadConfig(0x08, 4));
        Assert.Equal(0x04u, function.ReadConfig(0x10, 4));
        function.WriteConfig(0x10, uint.MaxValue, 4);
        function.WriteConfig(0x14, uint.MaxValue, 4);
        Assert.Equal(0xFFFF_C004u, function.ReadConfig(0x10, 4));
        Assert.Equal(0xFFFF_FFFFu, function.ReadConfig(0x14, 4));
        Assert.Equal(0u, function.ReadConfig(0x18, 4));
        Assert.Equal(0x50, function.Config.FindCapability(0x11));
        Assert.Equal(3u, function.ReadConfig(0x52, 2));
        Assert.Equal(DmaTestDevice.TableOffset, function.ReadConfig(0x54, 4));
        Assert.Equal(0x60, function.Config.FindCapability(0x10));
        Assert.Empty(machine.Notices);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public void AccessesToTheBarReachTheDeviceInTheirSize(int size)
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        ulong value = 0x1122_3344_5566_7788 & (ulong.MaxValue >> (64 - size * 8));
        machine.Write(DmaTestDevice.ScratchRegister, value, size);
        Assert.Equal(value, machine.Read(DmaTestDevice.ScratchRegister, size));
        Assert.Equal(value, machine.Read(DmaTestDevice.ScratchRegister));
    }

    [Fact]
    public void TheMsixTableAndPendingBitsAreTheVmmsAndNotTheDevices()
    {
        using var machine = new PassthroughMachine();
        machine.Boot(); // the device has nothing behind 0x28 and would refuse
        Assert.Equal(0x40UL + 2, machine.Read(DmaTestDevice.TableOffset + 2 * 16 + 8, 4));
        Assert.Equal(0UL, machine.Read(DmaTestDevice.PendingOffset));
        Assert.Empty(machine.Notices);
    }

    [Fact]
    public void WhatTheDeviceRefusesReadsAllOnesAndIsToldOnce()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        Assert.Equal(0xFFFF_FFFFUL, machine.Read(0x1000, 4));
        Assert.Equal(0xFFUL, machine.Read(0x1000, 1));
        machine.Write(0x1000, 5, 1);
        Assert.Contains("BAR 0", Assert.Single(machine.Notices), StringComparison.Ordinal);
    }

    [Fact]
    public void TheDeviceIsToldOfItsCommandRegister()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        Assert.Equal(6, machine.Device.Config[4]);
        machine.Function.WriteConfig(0x04, 2, 1);
        Assert.Equal(2, machine.Device.Config[4]);
    }

    [Fact]
    public void InterruptsArriveAsMessagesAndWaitWhileMasked()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        machine.Write(DmaTestDevice.InterruptRegister, 2);
        Assert.Equal(0x42u, machine.TakeInterrupt());

        machine.Write(DmaTestDevice.TableOffset + 3 * 16 + 12, 1, 4); // mask vector 3
        machine.Write(DmaTestDevice.InterruptRegister, 3);
        machine.Read(0); // the device has handled it
        machine.Function.SetRunning(false); // and what it signalled has been taken
        Assert.Equal(1UL << 3, machine.Read(DmaTestDevice.PendingOffset));
        machine.Write(DmaTestDevice.TableOffset + 3 * 16 + 12, 0, 4);
        Assert.Equal(0x43u, machine.TakeInterrupt());
        Assert.Equal(2, machine.Function.Statistics.Interrupts);
    }

    [Fact]
    public void WithMsixOffTheDeviceHasNoEventfds()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        int msix = machine.Function.Config.FindCapability(0x11)!.Value;
        machine.Function.WriteConfig(msix + 2, 0, 2);
        machine.Write(DmaTestDevice.InterruptRegister, 1);
        machine.Read(0);
        machine.Function.SetRunning(false);
        Assert.Equal(0, machine.Function.Statistics.Interrupts);
        machine.Function.SetRunning(true);
        machine.Function.WriteConfig(msix + 2, 0x8000, 2);
        machine.Write(DmaTestDevice.InterruptRegister, 1);
        Assert.Equal(0x41u, machine.TakeInterrupt());
    }

    [Fact]
    public void AFunctionLevelResetReachesTheDevice()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        machine.Write(DmaTestDevice.ScratchRegister, 77);
        machine.Read(0);
        Assert.NotEqual(0u, machine.Function.ReadConfig(0x64, 4) & (1u << 28));
        machine.Function.WriteConfig(0x68, 0x8000, 2);
        Assert.Contains("reset", machine.Device.Events);
        Assert.Equal(0u, machine.Function.ReadConfig(0x04, 2));
        machine.Boot();
        Assert.Equal(0UL, machine.Read(DmaTestDevice.ScratchRegister));
        machine.Write(DmaTestDevice.InterruptRegister, 0);
        Assert.Equal(0x40u, machine.TakeInterrupt());
    }

    [Fact]
    public void DmaGoesWhereTheGuestMappedItAndNowhereElse()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        machine.Map(0x100, ModelBoard.LowGpa + 3);
        machine.Map(0x101, ModelBoard.HighGpa + 4);
        machine.Map(0x102, ModelBoard.LowGpa + 5, 1, AccessRights.Read);
        Assert.Equal(2UL, machine.Dma(0x100, 0xABCD, 3));
        Assert.Equal(0xABCDUL, machine.Ram(3));
        Assert.Equal(0xABCDUL, machine.Ram(ModelBoard.BlockPages + 4));
        Assert.Equal(0UL, machine.Ram(5));
        machine.Unmap(0x100);
        Assert.Equal(0UL, machine.Dma(0x100, 0xEEEE));
        Assert.Equal(0xABCDUL, machine.Ram(3));
        Assert.Equal(2, machine.Function.Statistics.MappingsLive);
    }

    [Fact]
    public void WithoutAVIommuTheDeviceReachesRamByGpa()
    {
        using var machine = new PassthroughMachine(iommu: false);
        machine.Boot();
        Assert.Equal(1UL, machine.Dma(ModelBoard.HighGpa + 9, 0x99));
        Assert.Equal(0x99UL, machine.Ram(ModelBoard.BlockPages + 9));
        Assert.Equal(3, machine.Function.Statistics.MappingsLive);
    }

    [Fact]
    public void StateSavedAndLoadedBringsBarsCommandAndInterrupts()
    {
        using var source = new PassthroughMachine();
        using var destination = new PassthroughMachine();
        source.Boot();
        var state = new ArrayBufferWriter<byte>();
        source.Function.SaveState(state);
        destination.Function.LoadState(state.WrittenSpan);
        Assert.Equal(6, destination.Device.Config[4]);
        destination.Write(DmaTestDevice.InterruptRegister, 2);
        Assert.Equal(0x42u, destination.TakeInterrupt());
    }

    [Fact]
    public void TheDescriptionNamesTheDeviceAndNotItsSocket()
    {
        using var machine = new PassthroughMachine();
        Dictionary<string, string> entries = machine.Function.Describe().ToDictionary(StringComparer.Ordinal);
        Assert.Equal("1234:5678", entries["vfio.dev0.id"]);
        Assert.Equal("010802", entries["vfio.dev0.class"]);
        Assert.Equal("16384", entries["vfio.dev0.region0.size"]);
        Assert.Equal("4", entries["vfio.dev0.irq2.count"]);
        Assert.Equal("4 vectors, table 0:0x2000, pba 0:0x3000", entries["vfio.dev0.msix"]);
        Assert.Equal("yes", entries["vfio.dev0.dma-logging"]);
        Assert.DoesNotContain(entries, e => e.Value.Contains('/', StringComparison.Ordinal));
    }

    [Fact]
    public void ADeviceThatDiesReadsAllOnesAndTheMachineRunsOn()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        machine.Map(0x100, ModelBoard.LowGpa);
        machine.KillDevice();
        machine.AwaitLoss();
        Assert.Equal(ulong.MaxValue, machine.Read(0));
        machine.Write(0, 1);
        machine.Unmap(0x100);
        machine.Map(0x200, ModelBoard.LowGpa);
        machine.Function.WriteConfig(0x04, 0, 2);
        machine.Function.SetRunning(false);
        machine.Function.SetRunning(true);
        machine.Function.Reset();
        Assert.Equal(0, machine.Function.Statistics.MappingsLive);
    }

    [Fact]
    public void ASocketWithoutADeviceIsRefusedByName()
    {
        using var board = new ModelBoard();
        var e = Assert.ThrowsAny<IOException>(() =>
            VfioPciFunction.Connect(new VfioDeviceOptions { Id = "dev0", Socket = "/nonexistent/godwit.sock" }, board.Topology, board.Ram));
        Assert.Contains("/nonexistent/godwit.sock", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ADeviceThatIsNoneIsRefusedByNameAndReleased()
    {
        var description = new DeviceDescription
        {
            Regions = new Dictionary<int, DeviceRegion> { [PciRegion.Config] = new(64) },
            Irqs = new Dictionary<int, int>(),
        };
        using var server = new DeviceServer(new DmaTestDevice { Description = description });
        using var board = new ModelBoard();
        var options = new VfioDeviceOptions { Id = "dev0", Socket = server.Path };
        var e = Assert.Throws<VfioAttachException>(() => VfioPciFunction.Connect(options, board.Topology, board.Ram));
        Assert.Contains("64 bytes of configuration space; 256 are the least", e.Message, StringComparison.Ordinal);
        Assert.Equal(server.Path, e.Address);
    }
}
