using Godwit.VfioUser;

namespace Godwit.Devices.Tests;

public class PciConfigurationTests
{
    [Fact]
    public void IdentityAndCapabilitiesAreWhatStockDriversLookFor()
    {
        using var rig = new NvmeRig();
        Assert.Equal(0x0010_1B36u, Config(rig, 0));
        Assert.Equal(0x010802u, Config(rig, 8) >> 8);
        Assert.Equal(0x4757_1B36u, Config(rig, 0x2C));
        Assert.Equal(1u, (Config(rig, 0x3C) >> 8) & 0xFF);
        Assert.Equal(0u, (Config(rig, 0x0C) >> 16) & 0xFF); // header type 0
        var found = new Dictionary<uint, uint>();
        for (uint at = Config(rig, 0x34) & 0xFF; at != 0; at = (Config(rig, (int)at) >> 8) & 0xFF)
            Assert.True(found.TryAdd(Config(rig, (int)at) & 0xFF, at));
        Assert.Equal([0x01u, 0x10u, 0x11u], found.Keys.Order());
        Assert.Equal(8u, (Config(rig, (int)found[0x11]) >> 16) & 0x7FF); // nine vectors
        Assert.Equal(0x2000u, Config(rig, (int)found[0x11] + 4));
        Assert.Equal(0x3000u, Config(rig, (int)found[0x11] + 8));
        Assert.Equal(0u, Config(rig, 0x100));
        Assert.Equal(9, rig.Controller.Description.Irqs[PciIrq.Msix]);
        Assert.Equal(1, rig.Controller.Description.Irqs[PciIrq.Error]);
        Assert.Equal(4096UL, rig.Controller.Description.Regions[PciRegion.Config].Size);
        Assert.Equal(0x4000UL, rig.Controller.Description.Regions[PciRegion.Bar0].Size);
    }

    [Fact]
    public void BarsAreSizedAsTheSpecificationSays()
    {
        using var rig = new NvmeRig();
        rig.Driver.Write32(0x10, 0xFFFF_FFFF, region: 7);
        rig.Driver.Write32(0x14, 0xFFFF_FFFF, region: 7);
        Assert.Equal(0xFFFF_C004u, Config(rig, 0x10));
        Assert.Equal(0xFFFF_FFFFu, Config(rig, 0x14));
        rig.Driver.Write32(0x18, 0xFFFF_FFFF, region: 7);
        Assert.Equal(0u, Config(rig, 0x18));
    }

    [Fact]
    public void ReadOnlyBitsStay()
    {
        using var rig = new NvmeRig();
        byte[] before = MigrationTests.Region(rig, PciRegion.Config, 4096);
        var pci = new PciConfiguration(9);
        byte[] ones = new byte[4096];
        ones.AsSpan().Fill(0xFF);
        ones[PciIdentity.Express + 9] = 0x7F; // no reset
        rig.Driver.Registers.Write(7, 0, ones);
        byte[] after = MigrationTests.Region(rig, PciRegion.Config, 4096);
        Assert.Equal(0x0010_1B36u, Config(rig, 0));
        Assert.Equal(0x0546u, Config(rig, 4) & 0xFFFF);
        Assert.Equal(before[6..12], after[6..12]);
        Assert.Equal(before[256..], after[256..]);
        Assert.True(pci.Accepts(after.AsSpan(0, 256)));
        Assert.False(pci.Accepts(ones.AsSpan(0, 256)));
        rig.Controller.Reset();
        Assert.Equal(before, MigrationTests.Region(rig, PciRegion.Config, 4096));
    }

    [Fact]
    public void TheMsixTableHoldsWhatIsWritten()
    {
        using var rig = new NvmeRig();
        for (int i = 0; i < 9 * 4; i++)
            rig.Driver.Write32(PciIdentity.MsixTableOffset + (i * 4), (uint)(i + 1));
        rig.Driver.Write32(PciIdentity.MsixTableOffset + (9 * 16), 77);
        rig.Driver.Write32(PciIdentity.MsixPendingOffset, 77);
        for (int i = 0; i < 9 * 4; i++)
            Assert.Equal((uint)(i + 1), rig.Driver.Read32(PciIdentity.MsixTableOffset + (i * 4)));
        Assert.Equal(0u, rig.Driver.Read32(PciIdentity.MsixTableOffset + (9 * 16)));
        Assert.Equal(0u, rig.Driver.Read32(PciIdentity.MsixPendingOffset));
    }

    private static uint Config(NvmeRig rig, int offset) => rig.Driver.Read32(offset, region: 7);
}
