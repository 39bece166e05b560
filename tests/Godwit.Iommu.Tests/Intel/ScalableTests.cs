using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>Scalable mode: from the root entry to the PASID entry, and what each does with DMA.</summary>
public class ScalableTests
{
    public static TheoryData<string, int, bool> FaultTable => new()
    {
        { "root half not present", 0x39, false },
        { "root table outside RAM", 0x38, false },
        { "root half with reserved bits", 0x3A, false },
        { "context table outside RAM", 0x40, false },
        { "context not present", 0x41, true },
        { "context with reserved bits", 0x42, true },
        { "context with PASIDE, which is not offered", 0x42, true },
        { "context with DTE, which is not offered", 0x42, true },
        { "context with RID_PRIV, which is not offered", 0x42, true },
        { "context with a bit in its upper half", 0x42, true },
        { "RID_PASID beyond the directory", 0x43, true },
        { "directory outside RAM", 0x50, false },
        { "directory entry not present", 0x51, true },
        { "directory entry with reserved bits", 0x52, true },
        { "PASID table outside RAM", 0x58, false },
        { "PASID entry not present", 0x59, true },
        { "PASID entry with reserved bits", 0x5A, true },
        { "PASID entry with SSADE, which is not offered", 0x5A, true },
        { "PASID entry with PGSNP, which is not offered", 0x5A, true },
        { "PASID entry with ERE, which is not offered", 0x5A, true },
        { "PASID entry with SSEE, which is not offered", 0x5A, true },
        { "PASID entry with EAFE, which is not offered", 0x5A, true },
        { "PASID entry with CD, which is not offered", 0x5A, true },
        { "PASID entry with EMTE, which is not offered", 0x5A, true },
        { "PASID entry with PAT, which is not offered", 0x5A, true },
        { "PASID entry with its last word set", 0x5A, true },
        { "PGTT 0", 0x5B, true },
        { "nested translation, which is not offered", 0x5B, true },
        { "five levels, which are not offered", 0x5B, true },
        { "table outside RAM", 0x7B, true },
        { "table below outside RAM", 0x78, true },
        { "table below in registers", 0x78, true },
        { "neither readable nor writable", 0x79, true },
        { "entry with reserved bits", 0x7A, true },
        { "entry with SNP, which is not offered", 0x7A, true },
        { "large page with low address bits", 0x7A, true },
        { "address beyond the width", 0x84, true },
        { "write to a page to be read", 0x85, true },
        { "read of a page to be written", 0x86, true },
        { "output in the interrupt range", 0x87, true },
    };

    [Theory]
    [MemberData(nameof(FaultTable))]
    public void EachMisprogrammingHasItsReason(string what, int reason, bool qualified) =>
        Provoke(TableKind.ScalableSecond, what, reason, qualified);

    public static TheoryData<string, int, bool> FirstStageFaultTable => new()
    {
        { "five levels, which are not offered", 0x5B, true },
        { "table outside RAM", 0x73, true },
        { "table below outside RAM", 0x70, true },
        { "table below in registers", 0x70, true },
        { "page not present", 0x71, true },
        { "large page with low address bits", 0x72, true },
        { "page size at the top", 0x72, true },
        { "not canonical", 0x80, true },
        { "supervisor page", 0x81, true },
        { "supervisor table", 0x81, true },
        { "upper half", 0x83, true },
        { "write to a page to be read", 0x85, true },
        { "output in the interrupt range", 0x87, true },
        { "tables in ROM", 0x91, true },
    };

    [Theory]
    [MemberData(nameof(FirstStageFaultTable))]
    public void EachFirstStageMisprogrammingHasItsReason(string what, int reason, bool qualified) =>
        Provoke(TableKind.ScalableFirst, what, reason, qualified);

    private static void Provoke(TableKind kind, string what, int reason, bool qualified)
    {
        // FPD nowhere, in the context entry, in the directory entry, in the PASID entry.
        for (int silent = 0; silent < 4; silent++)
        {
            using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = true }, kind: kind);
            ulong table = guest.AllocateTable();
            ulong root = guest.Root;
            ulong iova = 0x5000;
            bool write = false;
            ushort sid = guest.Sid();
            guest.SetContext(sid, table, 1);
            guest.Map(table, iova, 0x8000);
            ulong context = guest.ContextOf(sid), pasid = guest.PasidEntryOf(sid);
            switch (what)
            {
                case "root half not present": guest.Write64(root, 0); break;
                case "root table outside RAM": root = 0x4000_0000; break;
                case "root half with reserved bits": Set(root, 4); break;
                case "context table outside RAM": guest.Write64(root, 0x4000_0000 | 1); break;
                case "context not present": Clear(context, 1); break;
                case "context with reserved bits": Set(context, 1 << 5); break;
                case "context with PASIDE, which is not offered": Set(context, 1 << 3); break;
                case "context with DTE, which is not offered": Set(context, 1 << 2); break;
                case "context with RID_PRIV, which is not offered": Set(context + 8, 1 << 20); break;
                case "context with a bit in its upper half": Set(context + 24, 1UL << 63); break;
                case "RID_PASID beyond the directory": guest.Write64(context + 8, 128 << 6); break;
                case "directory outside RAM": guest.Write64(context, 0x4000_0000 | 1); break;
                case "directory entry not present": Clear(guest.Directory, 1); break;
                case "directory entry with reserved bits": Set(guest.Directory, 4); break;
                case "PASID table outside RAM": guest.Write64(guest.Directory, 0x4000_0000 | 1); break;
                case "PASID entry not present": Clear(pasid, 1); break;
                case "PASID entry with reserved bits": Set(pasid, 1 << 10); break;
                case "PASID entry with SSADE, which is not offered": Set(pasid, 1 << 9); break;
                case "PASID entry with PGSNP, which is not offered": Set(pasid + 8, 1 << 24); break;
                case "PASID entry with ERE, which is not offered": Set(pasid + 16, 2); break;
                case "PASID entry with SSEE, which is not offered": Set(pasid, 1 << 5); break;
                case "PASID entry with EAFE, which is not offered": Set(pasid + 16, 1 << 7); break;
                case "PASID entry with CD, which is not offered": Set(pasid + 8, 1 << 25); break;
                case "PASID entry with EMTE, which is not offered": Set(pasid + 8, 1 << 26); break;
                case "PASID entry with PAT, which is not offered": Set(pasid + 8, 1UL << 32); break;
                case "PASID entry with its last word set": Set(pasid + 56, 1); break;
                case "PGTT 0": Clear(pasid, 7 << 6); break;
                case "nested translation, which is not offered": Set(pasid, 3 << 6); break;
                case "five levels, which are not offered": guest.SetContext(sid, table, 1, levels: 5); break;
                case "table outside RAM": guest.SetContext(sid, 0x4000_0000, 1); break;
                case "table below outside RAM": guest.Write64(table, 0x4000_0000 | 7); break;
                case "table below in registers": guest.Write64(table, IntelIommu.RegisterBase.Value | 7); break;
                case "neither readable nor writable" or "page not present": iova = 0x6000; break;
                case "entry with reserved bits": Set(guest.EntryOf(table, iova), 1UL << 62); break;
                case "entry with SNP, which is not offered": Set(guest.EntryOf(table, iova), 1 << 11); break;
                case "large page with low address bits": guest.Write64(guest.EntryOf(table, iova, level: 2), 0x20_2000 | 0x87); break;
                case "page size at the top": Set(table, 0x80); break;
                case "address beyond the width": iova = 1UL << 48; break;
                case "not canonical": iova = 1UL << 47; break;
                case "upper half": iova = 0xFFFF_8000_0000_0000; break;
                case "supervisor page": Clear(guest.EntryOf(table, iova), 4); break;
                case "supervisor table": Clear(guest.EntryOf(table, iova, level: 2), 4); break;
                case "write to a page to be read":
                    guest.Map(table, iova, 0x8000, AccessRights.Read);
                    write = true;
                    break;
                case "read of a page to be written": guest.Map(table, iova, 0x8000, AccessRights.Write); break;
                case "output in the interrupt range": guest.Map(table, iova, 0xFEE0_1000); break;
                case "tables in ROM":
                    // The same tables again at 1 GiB, where they cannot be written.
                    guest.Topology.Add(guest.Topology.SystemRoot, new BusAddress(0x4000_0000), new RamRegion("rom", guest.Block, readOnly: true));
                    guest.SetContext(sid, table + 0x4000_0000, 1);
                    break;
                default: Assert.Fail(what); break;
            }

            if (silent != 0)
                Set(silent switch { 1 => context, 2 => guest.Directory, _ => pasid }, 2);
            guest.WriteRegister64(Rtaddr, root | (1 << 10));
            guest.Command(Srtp);
            guest.Command(Te);
            Assert.Equal(MemoryResult.AccessError, write ? guest.DmaWrite(iova, 1) : guest.DmaRead(iova, out _));
            // FPD counts once it has been read: the directory's from 0x51 on, the PASID entry's from 0x59 on.
            bool seen = silent switch { 0 => false, 1 => true, 2 => reason >= 0x51, _ => reason >= 0x59 };
            if (qualified && seen)
            {
                Assert.Empty(TranslationTests.Faults(guest));
                continue;
            }

            (int Reason, ulong Address, ushort Sid, bool Read) fault = Assert.Single(TranslationTests.Faults(guest));
            Assert.Equal((reason, iova & 0xFFFF_FFFF_F000, sid, !write), fault); // as many bits as the widest table has

            void Set(ulong address, ulong bits) => guest.Write64(address, guest.Read64(address) | bits);

            void Clear(ulong address, ulong bits) => guest.Write64(address, guest.Read64(address) & ~bits);
        }
    }

    [Fact]
    public void TheUpperHalfOfTheRootServesTheUpperDevices()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = true }, kind: TableKind.ScalableSecond);
        var high = new High();
        guest.Pci.RootBus.Attach(high, new Pci.DevFn(20, 1));
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(high.RequesterId.Value, table, 1);
        guest.Write64(guest.Root, 0); // the lower half is not needed
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, high.DmaSpace.WriteUInt64(new BusAddress(0x1000), 7, TransactionAttributes.Vmm));
        Assert.Equal(7ul, guest.Read64(0x8000));
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        Assert.Equal(0x39, Assert.Single(TranslationTests.Faults(guest)).Reason);
    }

    [Theory]
    [InlineData(0, 0x30)] // scalable tables where they are not offered
    [InlineData(1, 0x30)] // the reserved mode
    [InlineData(2, 0x33)] // abort
    public void OtherTableModesPassNothing(int mode, int reason)
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        Assert.Single(user.Live);
        guest.WriteRegister64(Rtaddr, guest.Root | ((ulong)(mode + 1) << 10));
        guest.Command(Srtp);
        Assert.Empty(user.Live);
        Assert.True(user.Translated);
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        Assert.Equal(reason, Assert.Single(TranslationTests.Faults(guest)).Reason);
        // Messages pass all the same.
        Assert.Equal(
            MemoryResult.Ok,
            guest.Functions[0].DmaSpace.WriteUInt32(new BusAddress(0xFEE0_1004), 1, new TransactionAttributes(DirtySource.Device, guest.Sid())));
        guest.WriteRegister64(Rtaddr, guest.Root);
        guest.Command(Srtp);
        Assert.Single(user.Live);
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _));
    }

    [Fact]
    public void PassThroughIsInvalidWhereItIsNotOffered()
    {
        using var guest = new GuestDriver(
            new IntelIommuOptions { AddressWidth = 48, ScalableMode = true, PassThrough = false }, kind: TableKind.ScalableSecond);
        guest.SetContext(guest.Sid(), 0, 1, type: 2);
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0, out _));
        Assert.Equal(0x5B, Assert.Single(TranslationTests.Faults(guest)).Reason);
    }

    [Fact]
    public void OfferedBitsAreNotReserved()
    {
        using var guest = new GuestDriver(
            new IntelIommuOptions { AddressWidth = 57, ScalableMode = true, SnoopControl = true, DeviceIotlb = true }, kind: TableKind.ScalableSecond);
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        ulong context = guest.ContextOf(guest.Sid()), pasid = guest.PasidEntryOf(guest.Sid()), leaf = guest.EntryOf(table, 0x1000);
        guest.Write64(context, guest.Read64(context) | (1 << 2) | (7 << 9));            // DTE, the largest directory
        guest.Write64(pasid + 8, guest.Read64(pasid + 8) | (3 << 23));                   // PWSNP, PGSNP
        guest.Write64(pasid + 16, guest.Read64(pasid + 16) | 1 | (7 << 4));              // SRE; WPE, NXE and SMEP mean nothing
        guest.Write64(leaf, guest.Read64(leaf) | (1 << 11) | (3UL << 52) | (1UL << 63)); // SNP, ignored bits
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x1000, 9));
        Assert.Equal(9ul, guest.Read64(0x8000));
    }

    /// <summary>What first-stage=off leaves: second stage and pass-through, with as few levels as there are.</summary>
    [Fact]
    public void FirstStageTablesAreInvalidWhereTheyAreNotOffered()
    {
        var options = new IntelIommuOptions { ScalableMode = true, FirstStage = false };
        using var guest = new GuestDriver(options, kind: TableKind.ScalableSecond);
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _));
        Assert.Equal(0UL, (guest.ReadRegister64(0x10) >> 47) & 1); // ECAP.FSTS
        Assert.Equal(0UL, guest.ReadRegister64(8) & (1UL << 56));  // CAP.FS1GP

        guest.SetPasid(guest.Sid(), 0, 1, levels: 4, translation: 1);
        guest.Invalidate(PasidCache(3, 0, 0));
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        guest.SetPasid(guest.Sid(), table, 1, levels: 4, translation: 1); // the pointer is reserved then
        guest.Invalidate(PasidCache(3, 0, 0));
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        Assert.Equal([0x5B, 0x5A], TranslationTests.Faults(guest).Select(fault => fault.Reason));
    }

    [Fact]
    public void LegacyContextsMayAllowDeviceTlbsWhereTheyAreOffered()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { DeviceIotlb = true });
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1, type: 1);
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x1000, 9));
        Assert.Equal(9ul, guest.Read64(0x8000));
    }

    /// <summary>
    /// What 6.5.2.1 and 6.5.2.4 say of second-stage translations: a PASID's go too, pages of it do not; and the context cache of scalable mode
    /// knows no domains, so one domain is all.
    /// </summary>
    [Fact]
    public void InvalidationsOfPasidsReachSecondStageTranslations()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = true }, functions: 2, kind: TableKind.ScalableSecond);
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetContext(guest.Sid(1), table, 2);
        guest.SetRootAndEnable();
        uint pasid = PasidOf(guest.Sid());
        Expect(PasidIotlb(1, pasid), true, false);
        Expect(PasidIotlb(2, pasid), false, false);
        Expect(PasidIotlbPages(1, pasid, 0x1000, 0), false, false);
        Expect(ContextDomain(7), true, true);

        void Expect((ulong, ulong) descriptor, bool first, bool second)
        {
            guest.Map(table, 0x1000, 0x8000);
            guest.Invalidate(IotlbGlobal);
            guest.Write64(0x8000, 1);
            guest.Write64(0x9000, 2);
            guest.DmaRead(0x1000, out _);
            guest.DmaRead(0x1000, out _, 1);
            guest.Map(table, 0x1000, 0x9000);
            guest.Invalidate(descriptor);
            guest.DmaRead(0x1000, out ulong one);
            guest.DmaRead(0x1000, out ulong two, 1);
            Assert.Equal((first, second), (one == 2, two == 2));
        }
    }

    /// <summary>Invalidations reach what they name and nothing else: translations of others stay cached although their tables have changed.</summary>
    /// <summary>
    /// A function that was blocked when the unit looked, and whose context the guest has made since without saying so: its first-stage translations
    /// are those of the whole domain too when a page of the domain is invalidated (6.5.2.3).
    /// </summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TranslationsOfAContextThatWasFoundLateGoWithTheirDomain(bool cachingMode)
    {
        using var guest = new GuestDriver(
            new IntelIommuOptions { AddressWidth = 48, ScalableMode = true, CachingMode = cachingMode }, kind: TableKind.ScalableFirst);
        Assert.NotNull(guest.Functions[0].DmaSpace); // the unit has met it
        guest.SetRootAndEnable(); // there is no context yet
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _));
        guest.Unmap(table, 0x1000);
        guest.Invalidate(IotlbPages(1, 0x9000, 0)); // another page
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        guest.Map(table, 0x1000, 0x8000);
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _));
        guest.Unmap(table, 0x1000);
        guest.Invalidate(PasidIotlb(1, PasidOf(guest.Sid())));
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
    }

    [Fact]
    public void InvalidationsOfFirstStageTranslationsAreExact()
    {
        using var guest = new GuestDriver(
            new IntelIommuOptions { AddressWidth = 48, ScalableMode = true }, functions: 3, kind: TableKind.ScalableFirst);
        ulong table = guest.AllocateTable();
        guest.SetRootAndEnable();
        for (int function = 0; function < 3; function++)
            guest.SetContext(guest.Sid(function), table, (ushort)(function == 2 ? 2 : 1));
        guest.Invalidate(ContextGlobal, PasidCache(3, 0, 0));
        uint pasid = PasidOf(guest.Sid());

        Expect([PasidIotlb(1, pasid)], [true, false, false], [true, false, false]);
        Expect([PasidIotlbPages(1, pasid, 0x1000, 0)], [true, false, false], [false, false, false]);
        Expect([PasidIotlbPages(1, pasid, 0, 1)], [true, false, false], [false, false, false]);
        Expect([PasidIotlbPages(1, pasid, 0, 2)], [true, false, false], [true, false, false]);
        Expect([PasidIotlbPages(1, pasid, 0x7F_FFFF_F000, 27)], [true, false, false], [true, false, false]); // more than MAMV, which is not for these
        Expect([PasidIotlbPages(1, pasid, 0xFFFF_FFFF_FFFF_F000, 63)], [true, false, false], [true, false, false]);
        Expect([PasidIotlbPages(1, pasid, 0x80_0000_0000, 26)], [false, false, false], [false, false, false]);
        Expect([PasidIotlb(1, 5)], [false, false, false], [false, false, false]);   // no one has that PASID
        Expect([PasidIotlb(2, pasid)], [false, false, false], [false, false, false]); // not in that domain
        Expect([IotlbPages(1, 0x1000, 0)], [true, true, false], [true, true, false]); // all first-stage ones of the domain
        Expect([IotlbDomain(2)], [false, false, true], [false, false, true]);
        Expect([PasidCache(1, 1, pasid)], [true, false, false], [true, false, false]);
        Expect([PasidCache(0, 1, 0)], [true, true, false], [true, true, false]);
        Expect([PasidCache(0, 2, 0)], [false, false, true], [false, false, true]);
        Expect([IotlbGlobal], [true, true, true], [true, true, true]);

        // Which functions see the new page at 0x1000, and at 0x2000.
        void Expect((ulong, ulong)[] descriptors, bool[] first, bool[] second)
        {
            guest.Map(table, 0x1000, 0x8000);
            guest.Map(table, 0x2000, 0x9000);
            guest.Invalidate(IotlbGlobal);
            guest.Write64(0x8000, 1);
            guest.Write64(0x9000, 1);
            guest.Write64(0xA000, 2);
            for (int function = 0; function < 3; function++)
            {
                Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _, function));
                Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x2000, out _, function));
            }

            guest.Map(table, 0x1000, 0xA000);
            guest.Map(table, 0x2000, 0xA000);
            guest.Invalidate(descriptors);
            for (int function = 0; function < 3; function++)
            {
                guest.DmaRead(0x1000, out ulong one, function);
                guest.DmaRead(0x2000, out ulong two, function);
                Assert.Equal((first[function], second[function]), (one == 2, two == 2));
            }
        }
    }

    [Fact]
    public void ScalableTablesNeedWideDescriptors()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = true }, kind: TableKind.ScalableSecond);
        guest.WriteRegister64(Rtaddr, guest.Root | (1 << 10));
        guest.Command(Srtp);
        guest.WriteRegister64(Iqa, guest.Queue);
        guest.Command(Qie);
        guest.Write32(Iqt, 0x20);
        Assert.Equal(1u << 4, guest.Read32(Fsts) & (1 << 4));
        Assert.Equal(5ul, guest.ReadRegister64(0xB0) & 0xF);
    }

    [Fact]
    public void RegisterInvalidationIsNotForScalableMode()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = true }, kind: TableKind.ScalableSecond);
        guest.WriteRegister64(Rtaddr, guest.Root | (1 << 10));
        guest.Command(Srtp);
        guest.WriteRegister64(Ccmd, (1UL << 63) | (1UL << 61));
        Assert.Equal(0ul, guest.ReadRegister64(Ccmd) >> 59 & 0b10011);
        guest.WriteRegister64(IotlbReg, (1UL << 63) | (1UL << 60));
        Assert.Equal(0ul, (guest.ReadRegister64(IotlbReg) >> 57) & 0b1000011);
    }

    private sealed class High : Pci.PciFunction
    {
        internal High() : base("high") => SetIdentity(1, 2, 3);
    }
}
