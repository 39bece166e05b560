using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Vfio.Tests;

/// <summary>
/// A hostile guest, the real unit and the real shadow. A guest that does not invalidate may leave mappings in the device that its tables do not have any
/// more; what holds after every step, without any resynchronisation, is that the mapping table is what the unit has announced, and the device has
/// what the mapping table says.
/// </summary>
public sealed class UnitShadowTests
{
    private static readonly ulong[] Places = [UnitBoard.Root, UnitBoard.Contexts, UnitBoard.Table, UnitBoard.Middle, UnitBoard.Leaves, UnitBoard.RamBase + 0x5000];

    [Fact]
    public void TheMappingTableIsAlwaysWhatWasAnnounced() => Seeds.ForEach(40, random =>
    {
        using var board = new UnitBoard();
        var function = new Endpoint();
        var bridge = new PciBridge("port", PciBridgeKind.RootPort);
        bool below = random.Next(2) == 0;
        if (below)
            board.Bus.RootBus.Attach(bridge, new DevFn(1, 0));
        (below ? bridge.Secondary : board.Bus.RootBus).Attach(function, below ? default : new DevFn(3, 0));
        var device = new ModelDevice(new ModelDeviceTraits { MaxMappings = 1 << 20 }, new Random(0));
        string? cutOff = null;
        var shadow = new DmaShadow("dev0", device, reason => cutOff = reason, board.Ram, new GpaResolver(board.Topology.System), new NoticeBoard());
        var announced = new Announced(board);
        function.DmaSpace.AddListener(announced);
        function.DmaSpace.AddListener(shadow);
        board.BuildTables();
        if (below)
        {
            board.Write(UnitBoard.Root + 16, UnitBoard.Contexts | 1); // bus 1
            board.Write(UnitBoard.Contexts + 8, 1 | (2 << 8));
            board.Write(UnitBoard.Contexts, UnitBoard.Table | 1);
        }

        for (ulong page = 0; page < 64; page++)
            board.Map(page, UnitBoard.RamBase + ((ulong)random.Next(1200) << RamPage.Shift));
        board.SwitchOn();
        bool sawMappings = false;
        for (int step = 0; step < 150; step++)
        {
            Step(board, below ? bridge : null, random);
            board.Unit.Pause(); // the unit's own thread may be at it: look between two of its steps
            Dictionary<ulong, (ulong Ram, bool Writable)> table = Pages(shadow);
            Assert.Equal(announced.Live.OrderBy(item => item.Key), table.OrderBy(item => item.Key));
            Assert.Equal(table.OrderBy(item => item.Key), Expand(device.Mappings).OrderBy(item => item.Key));
            sawMappings |= table.Count is > 0 and < 1000;
            board.Unit.Resume();
        }

        board.Unit.Pause();
        Assert.Null(cutOff);
        Assert.True(sawMappings, "the guest never mapped anything");
        function.DmaSpace.RemoveListener(shadow);
        function.DmaSpace.RemoveListener(announced);
    });

    private static void Step(UnitBoard board, PciBridge? bridge, Random random)
    {
        switch (random.Next(10))
        {
            case < 4:
                // A leaf or a pointer to another of the tables, itself among them.
                ulong entry = Places[random.Next(Places.Length)] + ((ulong)random.Next(24) * 8);
                board.Write(entry, random.Next(4) switch
                {
                    0 => 0,
                    1 => Places[random.Next(Places.Length)] | 3,
                    2 => ((ulong)random.Next(4) << 21) | 0x83,
                    _ => (UnitBoard.RamBase + ((ulong)random.Next(1200) << RamPage.Shift)) | (uint)random.Next(1, 4),
                });
                break;
            case 4 or 5:
                board.Register(0xF0, ((ulong)random.Next(32) << RamPage.Shift) | (uint)random.Next(6)); // IVA
                board.Register(0xF8, (1UL << 63) | ((ulong)random.Next(4) << 60) | ((ulong)random.Next(3) << 32));
                break;
            case 6:
                board.Register(0x28, (1UL << 63) | ((ulong)random.Next(4) << 61) | ((uint)random.Next(3)) | (UnitBoard.DeviceId << 16));
                break;
            case 7:
                board.Register(0x20, Places[random.Next(2)] | ((ulong)random.Next(4) << 10));
                board.Register(0x18, UnitBoard.SetRoot | (random.Next(4) == 0 ? 0 : UnitBoard.TranslationEnable));
                break;
            case 8 when bridge is not null:
                bridge.WriteConfig(0x19, (uint)random.Next(3), 1);
                break;
            default:
                // Back to something that works.
                board.BuildTables();
                board.SwitchOn();
                break;
        }
    }

    private static Dictionary<ulong, (ulong Ram, bool Writable)> Pages(DmaShadow shadow)
    {
        List<Mapping> runs = [];
        lock (shadow.Gate)
        {
            MappingTable.Cursor cursor = shadow.Installed.Seek(0);
            while (cursor.MoveNext())
                runs.Add(cursor.Current);
        }

        return Expand(runs);
    }

    private static Dictionary<ulong, (ulong Ram, bool Writable)> Expand(IEnumerable<Mapping> mappings)
    {
        var pages = new Dictionary<ulong, (ulong, bool)>();
        foreach (Mapping mapping in mappings)
        {
            for (ulong page = 0; page < mapping.Iova.Count; page++)
                pages.Add(mapping.Iova.First + page, ((mapping.Ram + page).Index, mapping.Writable));
        }

        return pages;
    }

    private sealed class Endpoint : PciFunction
    {
        internal Endpoint() : base("test") => SetIdentity(0x1234, 0x5678, 0xFF_00_00);
    }

    /// <summary>What the space has told, page by page as far as it is RAM, kept without anything of the room under test.</summary>
    private sealed class Announced(UnitBoard board) : IMemoryListener, IIommuListener
    {
        private const ulong First = UnitBoard.RamBase >> RamPage.Shift;

        internal Dictionary<ulong, (ulong Ram, bool Writable)> Live { get; } = [];

        public void RegionAdded(in FlatRange range)
        {
            if (range.Region is IommuRegion region)
                region.AddListener(this, range.Range);
            else if (range.Region is RamRegion)
                Add(range.Range.First.Value, range.Range.Length, UnitBoard.RamBase + range.OffsetInRegion, writable: true);
        }

        public void RegionRemoved(in FlatRange range)
        {
            if (range.Region is IommuRegion region)
                region.RemoveListener(this);
            if (range.Region is IommuRegion or RamRegion)
                Remove(range.Range.First.Value >> RamPage.Shift, range.Range.Last.Value >> RamPage.Shift);
        }

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights) =>
            Add(iova.Value, length, target.Value, (rights & AccessRights.Write) != 0);

        public void Unmapped(Iova iova, ulong length) => Remove(iova.Value >> RamPage.Shift, (iova.Value + (length - 1)) >> RamPage.Shift);

        private void Add(ulong iova, UInt128 length, ulong target, bool writable)
        {
            ulong from = target >> RamPage.Shift;
            UInt128 end = ((UInt128)target + length) >> RamPage.Shift;
            for (ulong page = Math.Max(from, First); page < First + UnitBoard.RamPages && page < end; page++)
                Live.Add((iova >> RamPage.Shift) + (page - from), (board.Block.FirstPage.Index + (page - First), writable));
        }

        private void Remove(ulong first, ulong last)
        {
            if (last - first > 512)
            {
                foreach (ulong page in Live.Keys.Where(page => page >= first && page <= last).ToArray())
                    Live.Remove(page);
                return;
            }

            for (ulong page = first; page <= last; page++)
                Live.Remove(page);
        }
    }
}
