using Godwit.Memory;
using Godwit.Pci;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>
/// A guest that writes a bridge's Secondary Bus Number gives the functions below other requester ids, and with them other contexts (VT-d 3.4.1):
/// nothing of the old ones' domain is left.
/// </summary>
public sealed class RenumberTests : IDisposable
{
    private const int SecondaryBus = 0x19; // PCI Express 5.0, 7.5.1.3.4

    private readonly GuestDriver _guest = new(functions: 1);

    public void Dispose() => _guest.Dispose();

    [Theory]
    [InlineData(PciBridgeKind.RootPort)]
    [InlineData(PciBridgeKind.ExpressToPci)]
    public void TheFunctionsBelowChangeTheirDomain(PciBridgeKind kind)
    {
        (PciBridge bridge, PciFunction function) = Plug(kind);
        var user = new ShadowUser(function.DmaSpace);
        bridge.WriteConfig(SecondaryBus, 5, 1);
        (ulong five, ulong six) = (Table(5, 1, 0x8000), Table(6, 2, 0x9000));
        _guest.Map(six, 0x2000, 0xA000);
        _guest.SetRootAndEnable();
        Assert.Equal([(0x1000ul, 0x8000ul)], Announced(user));
        Assert.Equal(0x8000ul, Target(function, 0x1000));
        int transactions = user.Transactions;

        bridge.WriteConfig(SecondaryBus, 6, 1);
        Assert.Equal([(0x1000ul, 0x9000ul), (0x2000ul, 0xA000ul)], Announced(user));
        Assert.Equal(0x9000ul, Target(function, 0x1000));
        Assert.Equal(transactions, user.Transactions); // it sees the same region

        // The old domain's invalidations are not its any more, and the new one's are.
        _guest.Map(five, 0x3000, 0xB000);
        _guest.Map(six, 0x4000, 0xC000);
        _guest.Invalidate(IotlbDomain(1));
        Assert.Equal(2, user.Live.Count);
        _guest.Invalidate(IotlbDomain(2));
        Assert.Equal([0x1000ul, 0x2000ul, 0x4000ul], user.Live.Keys);

        // And to where nothing is.
        bridge.WriteConfig(SecondaryBus, 9, 1);
        Assert.Empty(user.Live);
        Assert.Equal((transactions + 1, true), (user.Transactions, user.Translated));
        Assert.Null(Target(function, 0x1000));
        Assert.Equal(0, _guest.Iommu.Churn.Live);
    }

    /// <summary>Several functions, to pass-through and back: each time one memory transaction for all of them.</summary>
    [Fact]
    public void AllOfThemSwitchInOneTransaction()
    {
        (PciBridge bridge, PciFunction first) = Plug(PciBridgeKind.RootPort);
        var second = new Endpoint("second");
        bridge.Secondary.Attach(second, new DevFn(0, 1));
        ShadowUser[] users = [new(first.DmaSpace), new(second.DmaSpace)];
        var all = new ShadowUser(_guest.Functions[0].DmaSpace);
        bridge.WriteConfig(SecondaryBus, 5, 1);
        Table(5, 1, 0x8000);
        ulong contexts = ContextsOf(6);
        for (ulong devFn = 0; devFn < 2; devFn++)
        {
            _guest.Write64(contexts + (devFn * 16) + 8, 1 | (2 << 8));
            _guest.Write64(contexts + (devFn * 16), 1 | (2 << 2));
        }

        _guest.SetRootAndEnable();
        int[] transactions = [.. users.Select(user => user.Transactions)];
        int others = all.Transactions;
        for (int round = 1; round < 4; round++)
        {
            bridge.WriteConfig(0x18, round % 2 != 0 ? 0x06_06_00u : 0x05_05_00u, 4); // primary, secondary and subordinate at once
            Assert.Equal([.. transactions.Select(count => count + round)], users.Select(user => user.Transactions));
            Assert.All(users, user => Assert.Equal(round % 2 == 0, user.Translated));
            Assert.All(users, user => Assert.Equal(round % 2 == 0 ? 1 : 0, user.Live.Count));
        }

        Assert.Equal(others, all.Transactions);
    }

    /// <summary>A conventional bridge answers for what is below with its own id: its secondary number is in nobody's requester id.</summary>
    [Fact]
    public void ABridgeWhoseNumberIsInNoIdChangesNothing()
    {
        (PciBridge outer, PciFunction _) = Plug(PciBridgeKind.ExpressToPci);
        var inner = new PciBridge("inner", PciBridgeKind.Conventional);
        outer.Secondary.Attach(inner, new DevFn(2, 0));
        var function = new Endpoint("deep");
        inner.Secondary.Attach(function, new DevFn(3, 0));
        var user = new ShadowUser(function.DmaSpace);
        outer.WriteConfig(SecondaryBus, 5, 1);
        Table(5, 1, 0x8000);
        Table(6, 2, 0x9000);
        _guest.SetRootAndEnable();
        (int maps, int unmaps) = (user.MapEvents, user.UnmapEvents);
        inner.WriteConfig(SecondaryBus, 6, 1);
        Assert.Equal((maps, unmaps), (user.MapEvents, user.UnmapEvents));
        outer.WriteConfig(SecondaryBus, 6, 1);
        Assert.Equal([(0x1000ul, 0x9000ul)], Announced(user));
    }

    /// <summary>A reset of the bridge is a renumbering too, and so is a state that is loaded into it.</summary>
    [Fact]
    public void ResetAndLoadCount()
    {
        (PciBridge bridge, PciFunction function) = Plug(PciBridgeKind.RootPort);
        var user = new ShadowUser(function.DmaSpace);
        bridge.WriteConfig(SecondaryBus, 5, 1);
        Table(5, 1, 0x8000);
        _guest.SetRootAndEnable();
        Assert.Single(user.Live);
        var state = new System.Buffers.ArrayBufferWriter<byte>();
        bridge.SaveState(state);
        bridge.Reset();
        Assert.Empty(user.Live); // bus 0, slot 0
        bridge.LoadState(state.WrittenSpan);
        Assert.Single(user.Live);
    }

    /// <summary>In the middle of a long command: accesses find the new domain at once, the device's mappings follow behind the command.</summary>
    [Fact]
    public void WhileTheUnitIsBusy()
    {
        (PciBridge bridge, PciFunction function) = Plug(PciBridgeKind.RootPort);
        var user = new ShadowUser(function.DmaSpace);
        bridge.WriteConfig(SecondaryBus, 5, 1);
        Table(5, 1, 0x8000);
        Table(6, 2, 0x9000);
        _guest.SetRootAndEnable();
        Assert.Equal(0x8000ul, Target(function, 0x1000));
        _guest.Iommu.Pause(); // as if it had much to do
        bridge.WriteConfig(SecondaryBus, 6, 1);
        Assert.Equal(0x9000ul, Target(function, 0x1000));
        Assert.Equal([(0x1000ul, 0x8000ul)], Announced(user));
        _guest.Iommu.Resume();
        _guest.TakeTurns();
        Assert.Equal([(0x1000ul, 0x9000ul)], Announced(user));
    }

    /// <summary>
    /// Two vCPUs write the number, to and fro, and the unit hears of the first change when the second has been made; in between an access went through
    /// the other domain. Nothing of it is left.
    /// </summary>
    [Fact]
    public void ThereAndBackBeforeTheUnitHearsOfIt()
    {
        var bridge = new PciBridge("bridge", PciBridgeKind.RootPort);
        _guest.Pci.RootBus.Attach(bridge, new DevFn(1, 0));
        var late = new Late(_guest.Iommu);
        bridge.Secondary.SetIommu(late);
        var function = new Endpoint("below");
        bridge.Secondary.Attach(function, default);
        bridge.WriteConfig(SecondaryBus, 5, 1);
        Table(5, 1, 0x8000);
        Table(6, 2, 0x9000);
        _guest.SetRootAndEnable();
        Assert.Null(Target(function, 0x2000)); // the unit knows it now, by its old id
        late.Meanwhile = () =>
        {
            late.Meanwhile = null;
            Assert.Equal(0x9000ul, Target(function, 0x1000));
            bridge.WriteConfig(SecondaryBus, 5, 1);
        };
        bridge.WriteConfig(SecondaryBus, 6, 1);
        Assert.Equal(0x8000ul, Target(function, 0x1000));
    }

    private static (ulong, ulong)[] Announced(ShadowUser user) => [.. user.Live.Select(item => (item.Key, item.Value.Target))];

    private static ulong? Target(PciFunction function, ulong iova)
    {
        var region = (IommuRegion)function.DmaSpace.View.Ranges.First(range => range.Region is IommuRegion).Region;
        IommuTranslation found = region.Translate(new Iova(iova), AccessRights.Read, default);
        return found.Rights == AccessRights.None ? null : found.Output.Value + (iova - found.Input.Value);
    }

    private (PciBridge Bridge, PciFunction Function) Plug(PciBridgeKind kind)
    {
        var bridge = new PciBridge("bridge", kind);
        _guest.Pci.RootBus.Attach(bridge, new DevFn(1, 0));
        var function = new Endpoint("below");
        bridge.Secondary.Attach(function, kind == PciBridgeKind.RootPort ? default : new DevFn(7, 1));
        return (bridge, function);
    }

    private ulong ContextsOf(byte bus)
    {
        ulong contexts = _guest.AllocateTable();
        _guest.Write64(_guest.Root + (bus * 16ul), contexts | 1);
        return contexts;
    }

    /// <summary>Devfn 0 and 1 of a bus in a domain with a table of one page at 0x1000.</summary>
    private ulong Table(byte bus, ushort domain, ulong target)
    {
        ulong contexts = ContextsOf(bus), table = _guest.AllocateTable();
        _guest.Map(table, 0x1000, target);
        for (ulong devFn = 0; devFn < 2; devFn++)
        {
            _guest.Write64(contexts + (devFn * 16) + 8, 1UL | ((ulong)domain << 8));
            _guest.Write64(contexts + (devFn * 16), table | 1);
        }

        return table;
    }

    /// <summary>Something happens after a number was changed and before the unit is told.</summary>
    private sealed class Late(IPciIommu unit) : IPciIommu
    {
        internal Action? Meanwhile { get; set; }

        public AddressSpace GetAddressSpace(PciBus bus, DevFn devFn) => unit.GetAddressSpace(bus, devFn);

        public IommuAttributes GetAttributes(PciBus bus, DevFn devFn) => unit.GetAttributes(bus, devFn);

        public void BusNumberChanged(PciBus bus)
        {
            Meanwhile?.Invoke();
            unit.BusNumberChanged(bus);
        }
    }

    private sealed class Endpoint : PciFunction
    {
        internal Endpoint(string name) : base(name) => SetIdentity(0x1AF4, 0x1000, 0xFF_00_00);
    }
}
