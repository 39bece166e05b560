using Godwit.Iommu.Intel;
using Godwit.Iommu.Intel.Interrupts;
using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class RegisterTests
{
    public static TheoryData<IntelIommuOptions> Units => new()
    {
        new IntelIommuOptions(),
        new IntelIommuOptions { CachingMode = false },
        new IntelIommuOptions { AddressWidth = 48, PassThrough = false },
        new IntelIommuOptions { AddressWidth = 57, DeviceIotlb = true, SnoopControl = true },
        new IntelIommuOptions { AddressWidth = 48, ScalableMode = true },
        new IntelIommuOptions { ScalableMode = true, FirstStage = false },
        new IntelIommuOptions { AddressWidth = 57, ScalableMode = true, InterruptRemapping = true, ExtendedInterruptMode = true },
        new IntelIommuOptions { InterruptRemapping = true },
        new IntelIommuOptions { InterruptRemapping = true, ExtendedInterruptMode = true, DmaTranslation = false },
    };

    [Theory]
    [MemberData(nameof(Units))]
    public void CapabilitiesSayWhatWasConfigured(IntelIommuOptions options)
    {
        using var guest = new GuestDriver(options);
        Assert.Equal(0x10u, guest.Read32(0));
        ulong cap = guest.ReadRegister64(8);
        Assert.Equal(6ul, cap & 7);                                        // ND: 16-bit domains
        Assert.Equal(0ul, (cap >> 3) & 0xF);                               // AFL, RWBF, PLMR, PHMR
        Assert.Equal(Bit(options.CachingMode), (cap >> 7) & 1);            // CM
        Assert.Equal(!options.DmaTranslation ? 0ul : options.AddressWidth switch { 39 => 2ul, 48 => 6ul, _ => 14ul }, (cap >> 8) & 0x1F); // SAGAW
        Assert.Equal((ulong)options.AddressWidth - 1, (cap >> 16) & 0x3F); // MGAW
        Assert.Equal(0ul, (cap >> 22) & 3);                                // ZLR
        Assert.Equal(0x22ul, (cap >> 24) & 0x3FF);                         // FRO
        Assert.Equal(3ul, (cap >> 34) & 0xF);                              // SSLPS
        Assert.Equal(1ul, (cap >> 39) & 1);                                // PSI
        Assert.Equal(7ul, (cap >> 40) & 0xFF);                             // NFR: 8 records
        Assert.Equal(18ul, (cap >> 48) & 0x3F);                            // MAMV
        Assert.Equal(3ul, (cap >> 54) & 3);                                // DWD, DRD
        Assert.Equal(Bit(options.ScalableMode && options.FirstStage), (cap >> 56) & 1); // FS1GP
        Assert.Equal(0ul, (cap >> 57) & 7);                                // PI
        Assert.Equal(Bit(options.ScalableMode && options.FirstStage && options.AddressWidth == 57), (cap >> 60) & 1); // FS5LP
        Assert.Equal(Bit(options.InterruptRemapping), (cap >> 62) & 1);    // ESIRTPS
        Assert.Equal(1ul, cap >> 63);                                      // ESRTPS
        ulong ecap = guest.ReadRegister64(0x10);
        Assert.Equal(3ul, ecap & 3);                                       // C, QI
        Assert.Equal(Bit(options.DeviceIotlb), (ecap >> 2) & 1);           // DT
        Assert.Equal(Bit(options.InterruptRemapping), (ecap >> 3) & 1);    // IR
        Assert.Equal(Bit(options.ExtendedInterruptMode), (ecap >> 4) & 1); // EIM
        Assert.Equal(Bit(options.PassThrough && options.DmaTranslation), (ecap >> 6) & 1); // PT
        Assert.Equal(Bit(options.SnoopControl), (ecap >> 7) & 1);          // SC
        Assert.Equal(0xFul, (ecap >> 8) & 0x3FF);                          // IRO
        Assert.Equal(options.InterruptRemapping ? 15ul : 0, (ecap >> 20) & 0xF); // MHMV
        Assert.Equal(0ul, (ecap >> 24) & 0x7F);                            // MTS, NEST, PRS, ERS
        Assert.Equal(Bit(options.ScalableMode), (ecap >> 31) & 1);         // SRS
        Assert.Equal(0ul, (ecap >> 32) & 0x7FF);                           // NWFS, EAFS, PSS, PASID, DIT, PDS
        Assert.Equal(Bit(options.ScalableMode), (ecap >> 43) & 1);         // SMTS
        Assert.Equal(0ul, (ecap >> 44) & 3);                               // VCS, SSADS
        Assert.Equal(options.ScalableMode ? options.FirstStage ? 0xFul : 0xD : 0, (ecap >> 46) & 0xF); // SSTS, FSTS, SMPWCS, RPS
        Assert.Equal(Bit(options.DmaTranslation), (ecap >> 52) & 1);       // ADMS
        Assert.Equal(0ul, ecap >> 53);                                     // RPRIVS and above
        guest.WriteRegister64(8, 0);
        guest.WriteRegister64(0x10, 0);
        Assert.Equal((cap, ecap), (guest.ReadRegister64(8), guest.ReadRegister64(0x10)));
    }

    public static TheoryData<IntelIommuOptions, string[]> Impossible => new()
    {
        { new() { AddressWidth = 38 }, ["aw-bits 38", "39, 48 or 57"] },
        { new() { AddressWidth = 0 }, ["aw-bits 0"] },
        { new() { AddressWidth = 64 }, ["aw-bits 64"] },
        { new() { ExtendedInterruptMode = true }, ["eim=on", "intremap=on"] },
        { new() { ScalableMode = true }, ["scalable-mode=on", "aw-bits=48 or 57", "first-stage=off"] },
        { new() { FirstStage = false }, ["first-stage=off", "scalable-mode=on"] },
        { new() { DmaTranslation = false }, ["dma-translation=off", "intremap=on"] },
        { new() { DmaTranslation = false, InterruptRemapping = true, AddressWidth = 48, ScalableMode = true }, ["dma-translation=off", "scalable-mode=on"] },
        { new() { DmaTranslation = false, InterruptRemapping = true, DeviceIotlb = true }, ["dma-translation=off", "device-iotlb=on"] },
        { new() { DmaTranslation = false, InterruptRemapping = true, SnoopControl = true }, ["dma-translation=off", "snoop-control=on"] },
    };

    [Theory]
    [MemberData(nameof(Impossible))]
    public void ImpossiblePropertiesAreRefusedByName(IntelIommuOptions options, string[] named)
    {
        ArgumentException refusal = Assert.Throws<ArgumentException>(() => new GuestDriver(options));
        Assert.All(named, name => Assert.Contains(name, refusal.Message, StringComparison.Ordinal));
    }

    [Fact]
    public void EveryOtherCombinationOfPropertiesIsBuilt()
    {
        int built = 0;
        foreach (int width in (int[])[39, 48, 57])
        {
            for (int bits = 0; bits < 512; bits++)
            {
                bool On(int bit) => (bits & (1 << bit)) != 0;
                var options = new IntelIommuOptions
                {
                    AddressWidth = width,
                    CachingMode = On(0),
                    InterruptRemapping = On(1),
                    ExtendedInterruptMode = On(2),
                    DmaTranslation = On(3),
                    PassThrough = On(4),
                    DeviceIotlb = On(5),
                    ScalableMode = On(6),
                    SnoopControl = On(7),
                    FirstStage = On(8),
                };
                bool possible = (On(1) || !On(2)) && (On(6) || On(8)) && (width != 39 || !On(6) || !On(8)) && (On(3) || (On(1) && !On(5) && !On(6) && !On(7)));
                if (!possible)
                {
                    Assert.Throws<ArgumentException>(options.Validate);
                    continue;
                }

                options.Validate();
                built++;
            }
        }

        Assert.Equal((96 + 144 + 144) + (3 * 8), built); // with DMA translation by width, without
    }

    [Fact]
    public void AUnitWithoutDmaTranslationLetsEverythingPass()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { DmaTranslation = false, InterruptRemapping = true });
        guest.SetContext(guest.Sid(), guest.AllocateTable(), 1);
        guest.WriteRegister64(Rtaddr, guest.Root);
        guest.Command(Srtp);
        guest.Write32(Gcmd, Te);
        Assert.Equal(Srtp, guest.Read32(Gsts)); // TE does nothing
        Assert.True(guest.Functions[0].DmaSpace.IsSystemMemory);
        Assert.Equal(new IommuAttributes(TranslatesDma: false, LastIova: null), guest.Functions[0].IommuAttributes);
        guest.EnableQueue();
        guest.Invalidate(IotlbGlobal, (4ul, 0ul));
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x9000, 1));
        Assert.Equal(0u, guest.Read32(Fsts));
    }

    [Fact]
    public void TheInterruptTableOwnerFollowsTheRegisters()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { InterruptRemapping = true, ExtendedInterruptMode = true });
        var owner = new InterruptOwner();
        guest.Iommu.Own(owner);
        Assert.Equal(default, owner.State);
        guest.WriteRegister64(0xB8, 0x5000 | (1 << 11) | 0x7F9);
        Assert.Equal(0x5000ul | (1 << 11) | 9, guest.ReadRegister64(0xB8));
        Assert.Equal(0, owner.State.Entries); // not latched yet
        guest.Write32(Gcmd, 1u << 24);
        Assert.Equal(new InterruptRemappingState(new Gpa(0x5000), 1024, Extended: true, Enabled: false, CompatibilityPasses: false), owner.State);
        Assert.Equal([(0, 65535)], owner.Invalidated);
        guest.Write32(Gcmd, (1u << 25) | (1u << 23));
        Assert.Equal(new InterruptRemappingState(new Gpa(0x5000), 1024, true, true, true), owner.State);
        Assert.Equal(7u << 23, guest.Read32(Gsts) & (7u << 23));
        guest.Command(0, clear: 1u << 23);
        Assert.Equal(new InterruptRemappingState(new Gpa(0x5000), 1024, true, true, false), owner.State);
        guest.EnableQueue();
        Assert.True(owner.State.Enabled);
        owner.Invalidated.Clear();
        guest.Invalidate(
            (4ul, 0ul),
            (4ul | (1 << 4) | (5ul << 32), 0ul),
            (4ul | (1 << 4) | (2ul << 27) | (6ul << 32), 0ul),
            (4ul | (1 << 4) | (31ul << 27) | (0xFFFFul << 32), 0ul));
        Assert.Equal([(0, 65535), (5, 5), (4, 7), (0, 65535)], owner.Invalidated);

        byte[] state = StateTests.Save(guest);
        guest.WriteRegister64(0xB8, 0x9000);
        guest.Write32(Gcmd, 1u << 24);
        Assert.Equal(new InterruptRemappingState(new Gpa(0x9000), 2, false, false, false), owner.State);
        guest.Iommu.LoadState(state);
        Assert.Equal(new InterruptRemappingState(new Gpa(0x5000), 1024, true, true, false), owner.State);
        guest.Iommu.Reset();
        Assert.Equal(default, owner.State);
        guest.Iommu.RecordInterruptFault(0x18, 0x1234, FaultReason.InterruptEntryNotPresent);
        Assert.Equal((0x1234ul << 48, 0x22ul), (guest.ReadRegister64(0x220), (guest.ReadRegister64(0x228) >> 32) & 0xFF));
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
        Assert.Equal(0xFFFF_FFFF_FFFF_F807ul, guest.ReadRegister64(Iqa)); // DW, as abort-DMA mode needs it
        guest.WriteRegister64(Feaddr, 0xFEE0_0000);               // FEADDR and FEUADDR in one write
        Assert.Equal(0xFEE0_0000u, guest.Read32(Feaddr));
        guest.Write32(Gcmd, 0);
        Assert.Equal(0u, guest.Read32(Gcmd));                     // write-only
    }

    [Fact]
    public void RegistersThatAreNotOfferedReadZero()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 57, ScalableMode = true, DeviceIotlb = true, SnoopControl = true });
        int[] offered = [0, 8, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x80, 0x88, 0x90, 0x98, 0xA0, 0xA8, 0xB0, 0xF0, 0xF8];
        for (int offset = 0; offset < 0x220; offset += 8)
        {
            if (offered.Contains(offset))
                continue;
            guest.WriteRegister64(offset, ulong.MaxValue);
            Assert.Equal((offset, 0ul), (offset, guest.ReadRegister64(offset)));
        }

        guest.Write32(0x30, uint.MaxValue); // the other halves of words that hold one 32-bit register
        guest.Write32(0x98, uint.MaxValue);
        Assert.Equal((0u, 0u), (guest.Read32(0x30), guest.Read32(0x98)));
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
        guest.Write32(Gcmd, Te | (1u << 27) | (1u << 28) | (1u << 29) | 0x7F_FFFF); // WBF, EAFL, SFL, and bits that there are none of
        Assert.Equal(Te | Srtp, guest.Read32(Gsts));
        Assert.Equal(0u, guest.Read32(Gcmd));
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

    private static ulong Bit(bool value) => value ? 1ul : 0;
}
