using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class RegisterTests
{
    [Theory]
    [InlineData(39, true, true)]
    [InlineData(39, false, true)]
    [InlineData(48, true, false)]
    public void CapabilitiesSayWhatWasConfigured(int width, bool cachingMode, bool passThrough)
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = width, CachingMode = cachingMode, PassThrough = passThrough });
        Assert.Equal(0x10u, guest.Read32(0));
        ulong cap = guest.ReadRegister64(8);
        Assert.Equal(6ul, cap & 7);                                        // ND: 16-bit domains
        Assert.Equal(cachingMode ? 1ul : 0, (cap >> 7) & 1);               // CM
        Assert.Equal(width == 48 ? 6ul : 2, (cap >> 8) & 0x1F);            // SAGAW
        Assert.Equal((ulong)width - 1, (cap >> 16) & 0x3F);                // MGAW
        Assert.Equal(0x22ul, (cap >> 24) & 0x3FF);                         // FRO
        Assert.Equal(3ul, (cap >> 34) & 0xF);                              // SLLPS
        Assert.Equal(1ul, (cap >> 39) & 1);                                // PSI
        Assert.Equal(7ul, (cap >> 40) & 0xFF);                             // NFR: 8 records
        Assert.Equal(18ul, (cap >> 48) & 0x3F);                            // MAMV
        Assert.Equal(0ul, (cap >> 4) & 7);                                 // RWBF, PLMR, PHMR
        ulong ecap = guest.ReadRegister64(0x10);
        Assert.Equal(1ul, (ecap >> 1) & 1);                                // QI
        Assert.Equal(0ul, (ecap >> 2) & 3);                                // DT, IR
        Assert.Equal(passThrough ? 1ul : 0, (ecap >> 6) & 1);              // PT
        Assert.Equal(0xFul, (ecap >> 8) & 0x3FF);                          // IRO
        Assert.Equal(0ul, ecap >> 20);                                     // nothing of scalable mode
        guest.WriteRegister64(8, 0);
        guest.WriteRegister64(0x10, 0);
        Assert.Equal((cap, ecap), (guest.ReadRegister64(8), guest.ReadRegister64(0x10)));
    }

    [Theory]
    [InlineData(38)]
    [InlineData(0)]
    [InlineData(57)]
    [InlineData(64)]
    public void OtherWidthsAreRefused(int width)
    {
        ArgumentException refusal = Assert.Throws<ArgumentException>(() => new GuestDriver(new IntelIommuOptions { AddressWidth = width }));
        Assert.Contains(width.ToString(), refusal.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void SixtyFourBitRegistersTakeHalves()
    {
        using var guest = new GuestDriver();
        guest.Write32(Rtaddr, 0x1234_5000);
        guest.Write32(Rtaddr + 4, 7);
        Assert.Equal(0x7_1234_5000ul, guest.ReadRegister64(Rtaddr));
        Assert.Equal(7u, guest.Read32(Rtaddr + 4));
        guest.WriteRegister64(Iqa, 0xFFFF_FFFF_FFFF_FFFF);
        Assert.Equal(0xFFFF_FFFF_FFFF_F007ul, guest.ReadRegister64(Iqa)); // no 256-bit descriptors
        guest.WriteRegister64(Feaddr, 0xFEE0_0000);               // FEADDR and FEUADDR in one write
        Assert.Equal(0xFEE0_0000u, guest.Read32(Feaddr));
        guest.Write32(Gcmd, 0);
        Assert.Equal(0u, guest.Read32(Gcmd));                     // write-only
    }

    [Fact]
    public void OtherSizesAndDevicesAreRefused()
    {
        using var guest = new GuestDriver();
        var register = new BusAddress(IntelIommu.RegisterBase.Value + Rtaddr);
        Assert.Equal(MemoryResult.AccessError, guest.Topology.System.WriteUInt16(register, 1, TransactionAttributes.Vcpu));
        Assert.Equal(MemoryResult.AccessError, guest.Topology.System.WriteUInt64(register + 4, 1, TransactionAttributes.Vcpu));
        guest.Topology.System.WriteUInt64(register, 0x5000, new TransactionAttributes(DirtySource.Device, 0x18));
        guest.Topology.System.WriteUInt64(register, 0x5000, TransactionAttributes.Vmm);
        Assert.Equal(0ul, guest.ReadRegister64(Rtaddr));
        Assert.Equal(uint.MaxValue, guest.Read32(0xFFC));
    }

    [Fact]
    public void CommandsShowInStatus()
    {
        using var guest = new GuestDriver();
        Assert.Equal(0u, guest.Read32(Gsts));
        guest.WriteRegister64(Rtaddr, guest.Root);
        guest.Command(Srtp);
        guest.Command(Te);
        guest.Write32(Gcmd, Te | (1u << 27)); // WBF: nothing to flush
        Assert.Equal(Te | Srtp, guest.Read32(Gsts));
        guest.EnableQueue();
        Assert.Equal(Te | Srtp | Qie, guest.Read32(Gsts));
        guest.Write32(Gcmd, Te | Qie | (1u << 25) | (1u << 24)); // no interrupt remapping here
        Assert.Equal(Te | Srtp | Qie, guest.Read32(Gsts));
        guest.Command(0, clear: Te);
        guest.Command(0, clear: Qie);
        Assert.Equal(Srtp, guest.Read32(Gsts));
    }

    [Fact]
    public void AttributesAreThereBeforeAnythingIsMapped()
    {
        using var guest = new GuestDriver();
        Assert.Equal(new IommuAttributes(true, new Iova((1UL << 39) - 1)), guest.Functions[0].IommuAttributes);
        using var wide = new GuestDriver(new IntelIommuOptions { AddressWidth = 48 });
        Assert.Equal(new Iova((1UL << 48) - 1), wide.Functions[0].IommuAttributes!.Value.LastIova);
    }

    [Fact]
    public void ResetGoesBackToPassingEverything()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.Map(table, 0x5000, 0x8000);
        guest.SetRootAndEnable();
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        Assert.Single(user.Live);
        guest.Iommu.Reset();
        Assert.Empty(user.Live);
        Assert.True(guest.Functions[0].DmaSpace.IsSystemMemory);
        Assert.Equal((0u, 0ul, 0ul), (guest.Read32(Gsts), guest.ReadRegister64(Rtaddr), guest.ReadRegister64(Iqa)));
        Assert.Equal(1u << 31, guest.Read32(Fectl));
        Assert.Equal(0, guest.Iommu.Churn.Live);
    }
}
