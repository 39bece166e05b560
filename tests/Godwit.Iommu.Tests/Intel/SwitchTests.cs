using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class SwitchTests
{
    [Fact]
    public void ATranslatedSpaceIsTwoIommuRangesAroundTheWindow()
    {
        using var guest = new GuestDriver(functions: 3);
        Assert.All(guest.Functions, function => Assert.Same(guest.Topology.System.View, function.DmaSpace.View));
        guest.SetRootAndEnable();
        FlatRange[] ranges = [.. guest.Functions[0].DmaSpace.View.Ranges];
        Assert.Equal(
            [(0ul, 0xFEDF_FFFFul, true), (0xFEE0_0000ul, 0xFEEF_FFFFul, false), (0xFEF0_0000ul, ulong.MaxValue, true)],
            ranges.Select(range => (range.Range.First.Value, range.Range.Last.Value, range.Region is IommuRegion)));
        guest.Command(0, clear: Te);
        Assert.All(guest.Functions, function => Assert.True(function.DmaSpace.IsSystemMemory));
    }

    [Fact]
    public void EachSwitchIsOneTransaction()
    {
        using var guest = new GuestDriver(functions: 2);
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetContext(guest.Sid(1), 0, 2, type: 2);
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        var other = new ShadowUser(guest.Functions[1].DmaSpace);
        AddressSpace space = guest.Functions[0].DmaSpace;
        int transactions = user.Transactions;

        guest.SetRootAndEnable(); // SRTP changes nothing yet
        Assert.Equal((transactions + 1, true), (user.Transactions, user.Translated));
        Assert.Equal((transactions, false), (other.Transactions, other.Translated));

        guest.SetContext(guest.Sid(), 0, 1, type: 2);
        guest.Invalidate(ContextDevice(guest.Sid()));
        Assert.Equal((transactions + 2, false), (user.Transactions, user.Translated));
        Assert.NotEmpty(user.Ram);

        guest.SetContext(guest.Sid(), table, 1);
        guest.SetContext(guest.Sid(1), table, 1);
        guest.Invalidate(ContextGlobal, IotlbGlobal);
        Assert.Equal((transactions + 3, true), (user.Transactions, user.Translated));
        Assert.Equal((transactions + 1, true), (other.Transactions, other.Translated));

        guest.WriteRegister64(Rtaddr, guest.Root); // the same again
        guest.Command(Srtp);
        Assert.Equal(transactions + 3, user.Transactions);

        guest.Command(0, clear: Te);
        Assert.Equal((transactions + 4, false), (user.Transactions, user.Translated));
        Assert.Same(space, guest.Functions[0].DmaSpace);
    }

    private enum Seen
    {
        Translated,
        PassThrough,
        Blocked,
        BlockedOtherwise,
        Off,
    }

    /// <summary>
    /// From each to each: one memory transaction when the device sees something else, none when it does not, and before the transaction what
    /// had been mapped is withdrawn already, in events of its own.
    /// </summary>
    [Theory]
    [InlineData(TableKind.Legacy)]
    [InlineData(TableKind.ScalableSecond)]
    [InlineData(TableKind.ScalableFirst)]
    public void EverySwitchIsOneTransaction(TableKind kind)
    {
        using var guest = new GuestDriver(
            new Iommu.Intel.IntelIommuOptions { AddressWidth = 48, ScalableMode = kind != TableKind.Legacy }, functions: 2, kind);
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0xFFF0_0000, 0x9000); // behind the interrupt window
        guest.SetContext(guest.Sid(1), 0, 2, type: 2);
        guest.SetRootAndEnable();
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        foreach (Seen from in Enum.GetValues<Seen>())
        {
            foreach (Seen to in Enum.GetValues<Seen>())
            {
                Show(from);
                Check(from);
                (int transactions, int unmaps) = (user.Transactions, user.UnmapEvents);
                Show(to);
                Check(to);
                bool changes = Sort(from) != Sort(to);
                Assert.Equal((from, to, changes ? 1 : 0), (from, to, user.Transactions - transactions));
                Assert.Equal((from, to, from == Seen.Translated && changes ? 2 : 0), (from, to, user.UnmapEvents - unmaps));
                Show(to); // the same again
                Assert.Equal(changes ? 1 : 0, user.Transactions - transactions);
            }
        }

        static Seen Sort(Seen seen) => seen switch { Seen.BlockedOtherwise => Seen.Blocked, Seen.Off => Seen.PassThrough, _ => seen };

        void Show(Seen seen)
        {
            if (seen == Seen.Off)
            {
                guest.Command(0, clear: Te);
                return;
            }

            if (seen == Seen.Blocked)
                guest.ClearContext(guest.Sid());
            else
                guest.SetContext(guest.Sid(), seen == Seen.PassThrough ? 0 : table, 1, type: seen switch { Seen.PassThrough => 2, _ => 0 });
            if (seen == Seen.BlockedOtherwise)
                guest.Write64(guest.ContextOf(guest.Sid()) + 8, ulong.MaxValue); // reserved bits
            guest.Invalidate(ContextDevice(guest.Sid()), IotlbGlobal);
            guest.Command(Te);
        }

        void Check(Seen seen)
        {
            bool bypass = Sort(seen) == Seen.PassThrough;
            Assert.Equal((seen, !bypass), (seen, user.Translated));
            Assert.Equal((seen, bypass), (seen, user.Ram.Count != 0));
            Assert.Equal((seen, bypass), (seen, ReferenceEquals(guest.Topology.System.View, guest.Functions[0].DmaSpace.View)));
            Assert.Equal((seen, seen == Seen.Translated ? 2 : 0), (seen, user.Live.Count));
            Assert.Equal((seen, Sort(seen) == Seen.Blocked ? MemoryResult.AccessError : MemoryResult.Ok), (seen, guest.DmaRead(0x1000, out _)));
        }
    }

    [Fact]
    public void ADeviceInNoDomainIsBlockedAndOneInItsDomainIsNot()
    {
        using var guest = new GuestDriver(functions: 2);
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(1), table, 1);
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _, 0));
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _, 1));
    }

    [Fact]
    public void PassThroughAndBackKeepsTheRecordRight()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x1000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        Assert.Equal(0x8000ul, Assert.Single(user.Live).Value.Target);
        guest.SetContext(guest.Sid(), table, 1, type: 2);
        guest.Invalidate(ContextDevice(guest.Sid()), IotlbDomain(1));
        Assert.Empty(user.Live);
        Assert.Equal(0, guest.Iommu.Churn.Live);
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0xA000, 5));
        Assert.Equal(5ul, guest.Read64(0xA000));
        guest.Map(table, 0x2000, 0x9000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.Invalidate(ContextDevice(guest.Sid()), IotlbDomain(1));
        Assert.Equal([0x1000ul, 0x2000ul], user.Live.Keys);
        Assert.Equal(2, guest.Iommu.Churn.Live);
    }

    [Fact]
    public void FunctionMasksReachNeighbours()
    {
        using var guest = new GuestDriver();
        var functions = new List<Pci.PciFunction>();
        for (int number = 1; number < 8; number++)
        {
            var function = new Neighbour($"n{number}");
            guest.Pci.RootBus.Attach(function, new Pci.DevFn(3, number));
            functions.Add(function);
            _ = function.DmaSpace;
        }

        guest.SetRootAndEnable();
        for (int mask = 0; mask < 4; mask++)
        {
            foreach (Pci.PciFunction function in functions)
                guest.SetContext(function.RequesterId.Value, 0, 1, type: 2);

            guest.Invalidate(ContextDevice(functions[2].RequesterId.Value, mask));
            int ignored = mask switch { 0 => 0, 1 => 4, 2 => 6, _ => 7 };
            foreach (Pci.PciFunction function in functions)
            {
                bool reached = (function.DevFn.Function & ~ignored) == (functions[2].DevFn.Function & ~ignored);
                Assert.Equal(reached, function.DmaSpace.IsSystemMemory);
                guest.ClearContext(function.RequesterId.Value);
            }

            guest.Invalidate(ContextGlobal);
        }
    }

    [Fact]
    public void WithoutCachingModeThereIsNoShadowing()
    {
        using var guest = new GuestDriver(new Iommu.Intel.IntelIommuOptions { CachingMode = false });
        guest.SetRootAndEnable();
        var user = new Refused();
        NotSupportedException refusal = Assert.Throws<NotSupportedException>(() => guest.Region().AddListener(user, BusRange.All));
        Assert.Contains("caching", refusal.Message, StringComparison.Ordinal);
    }

    /// <summary>Without caching mode nothing not present is cached, so a guest may map without saying so.</summary>
    [Fact]
    public void WithoutCachingModeNewEntriesWorkAtOnce()
    {
        using var guest = new GuestDriver(new Iommu.Intel.IntelIommuOptions { CachingMode = false });
        guest.SetRootAndEnable();
        ulong table = guest.AllocateTable();
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        guest.SetContext(guest.Sid(), table, 1);
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        guest.Map(table, 0x1000, 0x8000);
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _));
    }

    private sealed class Neighbour : Pci.PciFunction
    {
        internal Neighbour(string name) : base(name) => SetIdentity(1, 2, 3);
    }

    private sealed class Refused : IIommuListener
    {
        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights) => Assert.Fail("mapped");

        public void Unmapped(Iova iova, ulong length) => Assert.Fail("unmapped");
    }
}
