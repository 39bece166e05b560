using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class TranslationTests
{
    /// <summary>The story of a Linux boot: probe, root table, global invalidations by register, queue, TE, map, DMA, unmap, fault.</summary>
    [Fact]
    public void ADriverBringsTheUnitUpAndDoesDma()
    {
        using var guest = new GuestDriver();
        // 1. Before anything, DMA is untranslated.
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x9000, 0x11));
        Assert.Equal(0x11ul, guest.Read64(0x9000));
        // 2. Root table and register-based global invalidations.
        guest.WriteRegister64(Rtaddr, guest.Root);
        guest.Command(Srtp);
        guest.WriteRegister64(Ccmd, (1UL << 63) | (1UL << 61));
        Assert.Equal(1ul, (guest.ReadRegister64(Ccmd) >> 59) & 3);
        Assert.Equal(0ul, guest.ReadRegister64(Ccmd) >> 63);
        guest.WriteRegister64(IotlbReg, (1UL << 63) | (1UL << 60));
        Assert.Equal(1ul, (guest.ReadRegister64(IotlbReg) >> 57) & 3);
        Assert.Equal(0ul, guest.ReadRegister64(IotlbReg) >> 63);
        // 3. Queue and faults by message.
        guest.EnableQueue();
        guest.Write32(Fedata, 0x55);
        guest.Write32(Feaddr, 0xFEE0_2000);
        guest.Write32(Fectl, 0);
        // 4. A domain for the device, then translation on.
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 7);
        guest.Invalidate(ContextDevice(guest.Sid()), IotlbDomain(7));
        guest.Command(Te);
        Assert.Equal(MemoryResult.AccessError, guest.DmaWrite(0xFFFF_F000, 1));
        Assert.Equal(new InterruptMessage(2, false, false, false, 0, 0x55, false), Assert.Single(guest.Events.All));
        ClearFaults(guest);
        // 5. A buffer comes and goes.
        guest.Map(table, 0xFFFF_F000, 0x9000);
        guest.Invalidate(IotlbPages(7, 0xFFFF_F000, 0));
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0xFFFF_F008, 0x22));
        Assert.Equal(0x22ul, guest.Read64(0x9008));
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0xFFFF_F000, out ulong value));
        Assert.Equal(0x11ul, value);
        guest.Unmap(table, 0xFFFF_F000);
        guest.Invalidate(IotlbPages(7, 0xFFFF_F000, 0));
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0xFFFF_F000, out _));
        // 6. The fault is there to read.
        Assert.Equal(2u, guest.Read32(Fsts) & 2);
        ulong record = 0x220 + (((guest.Read32(Fsts) >> 8) & 0xFF) * 16ul);
        Assert.Equal(0xFFFF_F000ul, guest.ReadRegister64((int)record));
        Assert.Equal((1UL << 63) | (1UL << 62) | (6UL << 32) | guest.Sid(), guest.ReadRegister64((int)record + 8));
        Assert.Equal(2, guest.Events.All.Count);
    }

    public static TheoryData<int, int, TableKind> TablesAndSizes
    {
        get
        {
            var data = new TheoryData<int, int, TableKind>();
            foreach (TableKind kind in Enum.GetValues<TableKind>())
            {
                foreach (int width in (int[])[39, 48, 57])
                {
                    for (int level = 1; level <= 3 && (kind == TableKind.Legacy || width != 39); level++)
                        data.Add(width, level, kind);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(TablesAndSizes))]
    public void PagesOfEverySizeTranslate(int width, int level, TableKind kind)
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = width, ScalableMode = kind != TableKind.Legacy }, kind: kind);
        ulong table = guest.AllocateTable();
        ulong size = 1UL << (12 + (9 * (level - 1)));
        ulong iova = (1UL << guest.InputBits) - size; // the highest page
        ulong gpa = level == 3 ? 0 : size * 3 % RamSize;
        guest.SetContext(guest.Sid(), table, 1);
        guest.Map(table, iova, gpa, level: level);
        guest.SetRootAndEnable();
        for (int round = 0; round < 2; round++) // walked, then cached
        {
            IommuTranslation found = guest.Region().Translate(new Iova(iova + 0x5678 % size), AccessRights.Write, default);
            Assert.Equal(AccessRights.ReadWrite, found.Rights);
            ulong within = iova + (0x5678 % size) - found.Input.Value;
            Assert.True(within <= found.Mask);
            Assert.Equal(gpa + (0x5678 % size), found.Output.Value + within);
        }
    }

    [Fact]
    public void RightsAreThoseOfAllLevels()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.Map(table, 0x1000, 0x8000, AccessRights.Read);
        guest.Map(table, 0x2000, 0x9000, AccessRights.Write);
        guest.Map(table, 0x40_0000, 0xA000);
        ulong middle = guest.EntryOf(table, 0x40_0000, level: 2);
        guest.Write64(middle, guest.Read64(middle) & ~2UL); // the table above allows reads only
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _));
        Assert.Equal(MemoryResult.AccessError, guest.DmaWrite(0x1000, 1));
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x2000, 1));
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x2000, out _));
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x40_0000, out _));
        Assert.Equal(MemoryResult.AccessError, guest.DmaWrite(0x40_0000, 1));
        Assert.Equal([5, 6, 5], Faults(guest).Select(fault => fault.Reason));
    }

    public static TheoryData<string, int, bool> FaultTable => new()
    {
        { "root entry not present", 0x1, false },
        { "context entry not present", 0x2, true },
        { "context with a reserved type", 0x3, true },
        { "context with a width that the unit has not", 0x3, true },
        { "address beyond the width of the context", 0x4, true },
        { "write to nothing", 0x5, true },
        { "read of nothing", 0x6, true },
        { "table outside RAM", 0x3, true }, // LCT.4.3: the root of the page table belongs to the context
        { "table below outside RAM", 0x7, true },
        { "table in registers", 0x7, true },
        { "root table outside RAM", 0x8, false },
        { "context table outside RAM", 0x9, false },
        { "root entry with reserved bits", 0xA, false },
        { "context with reserved bits", 0xB, true },
        { "page entry with reserved bits", 0xC, true },
        { "large page with low address bits", 0xC, true },
        { "output in the interrupt range", 0xE, true },
    };

    [Theory]
    [MemberData(nameof(FaultTable))]
    public void EachMisprogrammingHasItsReason(string what, int reason, bool qualified)
    {
        for (int faultsOff = 0; faultsOff < 2; faultsOff++)
        {
            using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48 });
            ulong table = guest.AllocateTable();
            ulong root = guest.Root;
            ulong iova = 0x5000;
            bool write = false;
            int levels = 4, type = 0;
            ulong high = 0;
            bool present = true;
            guest.Map(table, iova, 0x8000);
            switch (what)
            {
                case "root entry not present":
                    guest.Write64(root, 0);
                    break;
                case "context entry not present":
                    present = false;
                    break;
                case "context with a reserved type":
                    type = 3;
                    break;
                case "context with a width that the unit has not":
                    levels = 5;
                    break;
                case "address beyond the width of the context":
                    iova = 1UL << 39;
                    levels = 3;
                    break;
                case "write to nothing":
                    iova = 0x6000;
                    write = true;
                    break;
                case "read of nothing":
                    iova = 0x6000;
                    break;
                case "table outside RAM":
                    table = 0x4000_0000;
                    break;
                case "table below outside RAM":
                    guest.Write64(table, 0x4000_0000 | 3);
                    break;
                case "table in registers":
                    guest.Write64(table, IntelIommu.RegisterBase.Value | 3);
                    break;
                case "root table outside RAM":
                    root = 0x4000_0000;
                    break;
                case "context table outside RAM":
                    guest.Write64(root, 0x4000_0000 | 1);
                    break;
                case "root entry with reserved bits":
                    guest.Write64(root, guest.Contexts | 1 | 4);
                    break;
                case "context with reserved bits":
                    high = 1 << 30;
                    break;
                case "page entry with reserved bits":
                    guest.Write64(guest.EntryOf(table, iova), 0x8000 | 3 | (1 << 11));
                    break;
                case "large page with low address bits":
                    guest.Write64(guest.EntryOf(table, iova, level: 2), 0x20_1000 | 0x83);
                    break;
                case "output in the interrupt range":
                    guest.Map(table, iova, 0xFEE0_1000);
                    break;
                default:
                    Assert.Fail(what);
                    break;
            }

            guest.SetContext(guest.Sid(), table, 1, levels, type, faultsOff == 1, present);
            ulong context = guest.Contexts + ((ulong)(guest.Sid() & 0xFF) * 16);
            guest.Write64(context + 8, guest.Read64(context + 8) | high);
            guest.WriteRegister64(Rtaddr, root);
            guest.Command(Srtp);
            guest.Command(Te);
            MemoryResult result = write ? guest.DmaWrite(iova, 1) : guest.DmaRead(iova, out _);
            Assert.Equal(MemoryResult.AccessError, result);
            if (faultsOff == 1 && qualified)
            {
                Assert.Empty(Faults(guest));
                continue;
            }

            (int Reason, ulong Address, ushort Sid, bool Read) fault = Assert.Single(Faults(guest));
            Assert.Equal((reason, iova & ~0xFFFUL, guest.Sid(), !write), fault);
        }
    }

    [Fact]
    public void PassThroughIsAFaultWhereItIsNotOffered()
    {
        using var guest = new GuestDriver(new IntelIommuOptions { PassThrough = false });
        guest.SetContext(guest.Sid(), 0, 1, type: 2);
        guest.SetRootAndEnable();
        Assert.False(guest.Functions[0].DmaSpace.IsSystemMemory);
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0, out _));
        Assert.Equal(3, Assert.Single(Faults(guest)).Reason);
    }

    [Fact]
    public void AProbeIsNoFault()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.Map(table, 0x1000, 0x8000, AccessRights.Read);
        guest.SetRootAndEnable();
        Assert.Equal(AccessRights.None, guest.Region().Translate(new Iova(0x9000), AccessRights.None, default).Rights);
        Assert.Equal(AccessRights.Read, guest.Region().Translate(new Iova(0x1000), AccessRights.None, default).Rights);
        Assert.Empty(Faults(guest));
    }

    [Fact]
    public void MessagesPassTheWindowUntranslated()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.Map(table, 0xFEE0_0000, 0x8000); // of no effect
        guest.SetRootAndEnable();
        var attributes = new TransactionAttributes(DirtySource.Device, guest.Sid());
        Assert.Equal(MemoryResult.Ok, guest.Functions[0].DmaSpace.WriteUInt32(new BusAddress(0xFEE0_1004), 0x42, attributes));
        Assert.Equal((0x1004ul, 0x42u, (ushort?)guest.Sid()), Assert.Single(guest.Messages.All));
        Assert.Equal(0ul, guest.Read64(0x8000));
        Assert.Empty(Faults(guest));
    }

    [Fact]
    public void TheSourceIsTheBusNumberOfTheMoment()
    {
        using var guest = new GuestDriver();
        var port = new Pci.PciBridge("port", conventionalSecondary: false);
        guest.Pci.RootBus.Attach(port, new Pci.DevFn(9, 0));
        var function = new BehindBridge();
        port.Secondary.Attach(function, default);
        port.WriteConfig(0x18, 0x0404_00, 4);
        ulong contexts = guest.AllocateTable();
        ulong table = guest.AllocateTable();
        guest.Write64(guest.Root + (4 * 16), contexts | 1);
        guest.Write64(contexts + 8, 1 | (9 << 8));
        guest.Write64(contexts, table | 1);
        guest.Map(table, 0x1000, 0x8000);
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, function.DmaSpace.WriteUInt64(new BusAddress(0x1000), 0x77, TransactionAttributes.Vmm));
        port.WriteConfig(0x18, 0x0505_00, 4);
        guest.Invalidate(ContextGlobal, IotlbGlobal);
        Assert.Equal(MemoryResult.AccessError, function.DmaSpace.WriteUInt64(new BusAddress(0x1000), 0x78, TransactionAttributes.Vmm));
        Assert.Equal((1, 0x1000ul, (ushort)0x500, false), Assert.Single(Faults(guest)));
        Assert.Equal(0x77ul, guest.Read64(0x8000));
    }

    [Fact]
    public void CachedTranslationsOfTheOldDomainAreNotUsedInTheNewOne()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable(), other = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(other, 0x1000, 0x9000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x1000, 1));
        guest.SetContext(guest.Sid(), other, 2);
        guest.Invalidate(ContextDevice(guest.Sid()), IotlbDomain(2));
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x1000, 2));
        Assert.Equal((1ul, 2ul), (guest.Read64(0x8000), guest.Read64(0x9000)));
        guest.ClearContext(guest.Sid());
        guest.Invalidate(ContextDevice(guest.Sid()));
        Assert.Equal(MemoryResult.AccessError, guest.DmaWrite(0x1000, 3));
    }

    /// <summary>What an invalidation withdrew is out of use when its wait completes, although translations are cached without a lock.</summary>
    [Fact]
    public void NoAccessUsesATranslationAfterItsWait()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        ulong entry = guest.EntryOf(table, 0x5000);
        guest.SetRootAndEnable();
        bool stop = false;
        long accepted = 0;
        var device = new Thread(() =>
        {
            for (ulong value = 1; !Volatile.Read(ref stop); value++)
            {
                if (guest.DmaWrite(0x5000, value) == MemoryResult.Ok)
                    Interlocked.Increment(ref accepted);
            }
        });
        device.Start();
        try
        {
            for (ulong round = 0; round < 2_000 || (Interlocked.Read(ref accepted) == 0 && round < 2_000_000); round++)
            {
                ulong page = 0x80_0000 + (round % 64 * 0x1000);
                guest.Write64(entry, page | 3);
                guest.Invalidate(IotlbPages(1, 0x5000, 0));
                if (round % 3 == 0)
                    Thread.Yield();
                guest.Write64(entry, 0);
                guest.Invalidate((round % 5) switch { 0 => IotlbDomain(1), 1 => IotlbGlobal, _ => IotlbPages(1, 0x5000, 0) });
                ulong seen = guest.Read64(page);
                for (int spin = 0; spin < 50; spin++)
                    Thread.SpinWait(10);
                Assert.Equal(seen, guest.Read64(page));
            }
        }
        finally
        {
            Volatile.Write(ref stop, true);
            Assert.True(device.Join(TimeSpan.FromSeconds(60)));
        }

        Assert.NotEqual(0, accepted);
    }

    internal static List<(int Reason, ulong Address, ushort Sid, bool Read)> Faults(GuestDriver guest)
    {
        var result = new List<(int, ulong, ushort, bool)>();
        for (int record = 0x220; record < 0x220 + (8 * 16); record += 16)
        {
            ulong high = guest.ReadRegister64(record + 8);
            if (high >> 63 != 0)
                result.Add(((int)(high >> 32) & 0xFF, guest.ReadRegister64(record), (ushort)high, (high >> 62 & 1) != 0));
        }

        return result;
    }

    internal static void ClearFaults(GuestDriver guest)
    {
        for (int record = 0x220; record < 0x220 + (8 * 16); record += 16)
            guest.Write32(record + 12, 1u << 31);
        guest.Write32(Fsts, 1);
    }

    private sealed class BehindBridge : Pci.PciFunction
    {
        internal BehindBridge() : base("behind") => SetIdentity(1, 2, 3);
    }
}
