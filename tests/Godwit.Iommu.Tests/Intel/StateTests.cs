using System.Buffers;
using System.Buffers.Binary;
using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class StateTests
{
    [Fact]
    public void AUnitComesBackWithEverythingTheGuestCanSee()
    {
        using var guest = new GuestDriver(functions: 2);
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0x40_0000, 0x80_0000, level: 2);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetContext(guest.Sid(1), 0, 2, type: 2);
        guest.Write32(Fedata, 0x31);
        guest.Write32(Feaddr, 0xFEE0_0000);
        guest.SetRootAndEnable();
        guest.Invalidate(IotlbGlobal);
        guest.DmaRead(0x9000, out _);
        guest.DmaRead(0xA000, out _);
        guest.WriteRegister64(Rtaddr, 0x5000);           // not latched
        guest.Queued((15ul, 0ul));                           // the queue stops on an error
        guest.Ring();

        using var target = new GuestDriver(functions: 2);
        var user = new ShadowUser(target.Functions[0].DmaSpace);
        var passing = new ShadowUser(target.Functions[1].DmaSpace);
        Copy(guest, target);
        target.Iommu.LoadState(Save(guest));

        Assert.Equal([0x1000ul, 0x40_0000ul], user.Live.Keys);
        Assert.Equal(2, user.Transactions); // attached, switched
        Assert.False(passing.Translated);
        for (int offset = 0; offset < 0x2A0; offset += 4)
            Assert.Equal((offset, guest.Read32(offset)), (offset, target.Read32(offset)));
        Assert.Equal(MemoryResult.Ok, target.DmaRead(0x1000, out _));
        target.Write32(Fectl, 0);
        Assert.Equal(0x31, Assert.Single(target.Events.All).Vector);
        target.DmaRead(0xB000, out _);
        Assert.Equal([0x9000ul, 0xA000ul, 0xB000ul], TranslationTests.Faults(target).Select(fault => fault.Address));
        // The guest mends its queue and goes on where it was.
        ulong head = target.ReadRegister64(Iqh) >> 4;
        target.Write64(target.Queue + (head * 16), 5u | (1u << 5) | (0x99ul << 32));
        target.Write64(target.Queue + (head * 16) + 8, target.StatusWord);
        target.Write32(Fsts, 1 << 4);
        Assert.Equal(0x99ul, target.Read64(target.StatusWord));
    }

    /// <summary>
    /// A guest with scalable tables is moved in the middle of its queue of wide descriptors: half of it is done, then an error, and behind it more.
    /// The other side announces every device's mapping before it is told to go on, and the guest mends the queue there.
    /// </summary>
    [Theory]
    [InlineData(48, TableKind.ScalableSecond)]
    [InlineData(57, TableKind.ScalableFirst)]
    public void AScalableGuestIsMovedInTheMiddleOfItsQueue(int width, TableKind kind)
    {
        var options = new IntelIommuOptions { AddressWidth = width, ScalableMode = true };
        using var guest = new GuestDriver(options, functions: 3, kind);
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0x40_0000, 0x80_0000, level: 2);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetContext(guest.Sid(1), 0, 2, type: 2);
        guest.SetRootAndEnable();
        guest.Invalidate(IotlbGlobal);
        guest.DmaRead(0x9000, out _);
        guest.DmaRead(0x9000, out _, 2);
        guest.Unmap(table, 0x1000);
        guest.Map(table, 0x3000, 0xB000);
        // Removed before the error, mapped behind it: the state is taken when only the first is done.
        guest.Queued(IotlbPages(1, 0x1000, 0), guest.Wait(0x71), (15ul, 0ul), PasidIotlb(1, PasidOf(guest.Sid())), IotlbDomain(1), guest.Wait(0x72));
        guest.Ring();
        Assert.Equal(0x71ul, guest.Read64(guest.StatusWord));

        using var target = new GuestDriver(options, functions: 3, kind);
        var user = new ShadowUser(target.Functions[0].DmaSpace);
        var passing = new ShadowUser(target.Functions[1].DmaSpace);
        var blocked = new ShadowUser(target.Functions[2].DmaSpace);
        Copy(guest, target);
        target.Iommu.LoadState(Save(guest));
        Assert.Equal([0x3000ul, 0x40_0000ul], user.Live.Keys);
        Assert.False(passing.Translated);
        Assert.True(blocked.Translated);
        Assert.Empty(blocked.Live);
        Assert.Equal(TranslationTests.Faults(guest), TranslationTests.Faults(target));
        Assert.Equal(1u << 4, target.Read32(Fsts) & (1 << 4));
        ulong head = target.ReadRegister64(Iqh);
        Assert.Equal(guest.ReadRegister64(Iqh), head);

        int unmaps = user.UnmapEvents, maps = user.MapEvents;
        target.Write64(target.Queue + head, 5u | (1u << 5) | (0x73ul << 32));
        target.Write64(target.Queue + head + 8, target.StatusWord);
        target.Write32(Fsts, 1 << 4);
        Assert.Equal(0x72ul, target.Read64(target.StatusWord));
        Assert.Equal((unmaps, maps), (user.UnmapEvents, user.MapEvents)); // the load had looked already
        Assert.Equal(target.ReadRegister64(Iqt), target.ReadRegister64(Iqh));
        Assert.Equal(MemoryResult.Ok, target.DmaWrite(0x3000, 5));
        Assert.Equal(5ul, target.Read64(0xB000));
    }

    [Fact]
    public void AbortModeComesWithTheState()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        guest.WriteRegister64(Rtaddr, guest.Root | (3 << 10));
        guest.Command(Srtp);
        using var target = new GuestDriver();
        Copy(guest, target);
        target.Iommu.LoadState(Save(guest));
        Assert.Equal(MemoryResult.AccessError, target.DmaRead(0x1000, out _));
        Assert.Equal(0x33, Assert.Single(TranslationTests.Faults(target)).Reason);
    }

    [Fact]
    public void LoadingOverARunningUnitFollowsTheNewTables()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        byte[] state = Save(guest);
        guest.Command(0, clear: Te);
        Assert.False(user.Translated);
        guest.Iommu.LoadState(state);
        Assert.Single(user.Live);
        guest.Map(table, 0x2000, 0x9000);
        guest.Iommu.LoadState(state); // while translated
        Assert.Equal([0x1000ul, 0x2000ul], user.Live.Keys);
        using var off = new GuestDriver();
        guest.Iommu.LoadState(Save(off));
        Assert.False(user.Translated);
        Assert.Empty(user.Live);
    }

    [Fact]
    public void AnotherKindOfUnitIsRefusedByName()
    {
        using var narrow = new GuestDriver();
        using var wide = new GuestDriver(new IntelIommuOptions { AddressWidth = 48 });
        using var plain = new GuestDriver(new IntelIommuOptions { PassThrough = false });
        Assert.Contains(" CAP ", Assert.Throws<InvalidDataException>(() => wide.Iommu.LoadState(Save(narrow))).Message, StringComparison.Ordinal);
        Assert.Contains(" ECAP ", Assert.Throws<InvalidDataException>(() => plain.Iommu.LoadState(Save(narrow))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void BrokenStateIsRefusedAndChangesNothing()
    {
        using var guest = new GuestDriver();
        byte[] good = Save(guest);
        for (int length = 0; length < good.Length; length += 7)
            Assert.Throws<InvalidDataException>(() => guest.Iommu.LoadState(good.AsSpan(0, length)));
        Assert.Throws<InvalidDataException>(() => guest.Iommu.LoadState([.. good, 0]));
        int registers = 8;
        int latched = good.Length - 32;
        Refuse(good, 0, 1);                                     // version
        Refuse(good, registers + Gcmd, 1UL << 32);              // GSTS bit that no command sets
        Refuse(good, registers + Gcmd, (ulong)Qie << 32);       // a queue that is on and has no size
        Refuse(good, registers + Iqh, 0x10);                    // a head without a queue
        Refuse(good, registers + 0x58, 1);                      // no register there
        Refuse(good, latched, 0x123);                           // root table not aligned
        Refuse(good, latched + 8, 0x5000);                      // an interrupt table in a unit that has none
        Refuse(good, latched + 16, 0x5000);                     // a queue that is not said to be on
        Refuse(good, latched + 16, 0x5019);                     // with bits that no queue has
        Refuse(good, latched + 16, 0x5808);                     // of 256-bit descriptors
        Refuse(good, latched + 16, 0x5008);                     // with QIES off
        Refuse(good, latched + 24, 8);                          // ninth of eight records
        Assert.Equal(0u, guest.Read32(Gsts));
        Assert.Equal(good, Save(guest));

        void Refuse(byte[] state, int offset, ulong value)
        {
            byte[] bad = [.. state];
            BinaryPrimitives.WriteUInt64LittleEndian(bad.AsSpan(offset), value);
            Assert.Throws<InvalidDataException>(() => guest.Iommu.LoadState(bad));
        }
    }

    [Fact]
    public void RandomStateIsRefusedOrWorks() => Seeded.Run(200, random =>
    {
        bool scalable = random.Next(2) == 0;
        using var guest = new GuestDriver(
            new IntelIommuOptions { AddressWidth = 48, ScalableMode = scalable }, kind: scalable ? TableKind.ScalableFirst : TableKind.Legacy);
        guest.SetContext(guest.Sid(), guest.AllocateTable(), 1);
        if (random.Next(2) == 0)
            guest.SetRootAndEnable();
        byte[] state = Save(guest);
        for (int flip = random.Next(1, 6); flip > 0; flip--)
            state[random.Next(state.Length)] ^= (byte)(1 << random.Next(8));
        try
        {
            guest.Iommu.LoadState(state);
        }
        catch (InvalidDataException)
        {
            return;
        }

        guest.DmaRead(0x1000, out _);
        guest.Write32(Iqt, 0x20);
        guest.Write32(Fsts, uint.MaxValue);
        guest.Write32(Gcmd, Te | Srtp | Qie);
        guest.Iommu.LoadState(Save(guest));
    });

    internal static byte[] Save(GuestDriver guest)
    {
        var writer = new ArrayBufferWriter<byte>();
        guest.Iommu.SaveState(writer);
        return writer.WrittenSpan.ToArray();
    }

    private static void Copy(GuestDriver from, GuestDriver to)
    {
        byte[] memory = new byte[RamSize];
        from.Block.Read(0, memory);
        to.Block.Write(0, memory, DirtySource.Vmm);
    }
}
