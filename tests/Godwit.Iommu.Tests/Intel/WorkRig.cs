using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;
using static Godwit.Iommu.Tests.WorkTests;

namespace Godwit.Iommu.Tests;

/// <summary>Several devices of one domain whose table has as many pages as a register write does not finish with.</summary>
internal sealed class WorkRig : IDisposable
{
    internal const int Devices = 4;
    internal const int Pages = 40 * 512; // of each device: 40 times the same leaf table
    internal const ulong First = 0x80_0000, Other = 0xC0_0000, Second = 0x70_0000;

    private readonly Command _command;
    private ulong _leaves;

    internal WorkRig(Command command, bool started = true, bool ownThreads = false)
    {
        _command = command;
        Guest = new GuestDriver(new() { InterruptRemapping = true }, functions: Devices, ownThreads: ownThreads);
        Guest.Iommu.Own(Interrupts);
        for (int device = 0; device < Devices; device++)
        {
            Live.Add([]);
            Guest.Functions[device].DmaSpace.AddListener(new Keeper(this, device));
        }

        _leaves = Guest.AllocateTable();
        Table = Guest.AllocateTable();
        Fill(_leaves, First);
        ulong middle = Guest.AllocateTable();
        for (ulong index = 0; index < Pages / 512; index++)
            Guest.Write64(middle + (index * 8), _leaves | 3);
        Guest.Write64(Table, middle | 3);
        if (!started)
            return;
        for (int device = 0; device < Devices; device++)
            Guest.SetContext(Guest.Sid(device), Table, 1);
        Guest.WriteRegister64(Rtaddr, Guest.Root);
        Write(Srtp);
        Write(Te);
        if (UsesQueue)
        {
            Guest.WriteRegister64(Iqt, 0);
            Guest.WriteRegister64(Iqa, Guest.Queue);
            Write(Te | Qie);
        }

        for (int device = 0; device < Devices; device++)
            CheckDevice(device, First);

        void Write(uint command)
        {
            Guest.Write32(Gcmd, command);
            Guest.TakeTurns();
            Assert.True(SpinWait.SpinUntil(() => (Guest.Read32(Gsts) & command) == command, TimeSpan.FromMinutes(2)));
        }
    }

    internal GuestDriver Guest { get; }

    internal InterruptOwner Interrupts { get; } = new();

    /// <summary>For each device, target by page.</summary>
    internal List<Dictionary<ulong, ulong>> Live { get; } = [];

    internal int Events { get; private set; }

    internal Action? OnEvent { get; set; }

    /// <summary>The host has unmapped something.</summary>
    internal Action? OnBatchEnd { get; set; }

    internal ulong Table { get; }

    private bool UsesQueue => _command is Command.QueueOfDomains or Command.QueueOfContexts;

    public void Dispose() => Guest.Dispose();

    /// <summary>Another target for every page, or other tables.</summary>
    internal void ChangeTables(Command command, ulong target = Other)
    {
        if (command is not (Command.QueueOfContexts or Command.ContextRegister))
        {
            Fill(_leaves, target);
            return;
        }

        // Contexts of another domain, whose tables are others too.
        _leaves = Guest.AllocateTable();
        Fill(_leaves, target);
        ulong middle = Guest.AllocateTable(), table = Guest.AllocateTable();
        for (ulong index = 0; index < Pages / 512; index++)
            Guest.Write64(middle + (index * 8), _leaves | 3);
        Guest.Write64(table, middle | 3);
        for (int device = 0; device < Devices; device++)
            Guest.SetContext(Guest.Sid(device), table, 2);
    }

    /// <summary>Tables of which each entry leads to the same table below, down to leaves.</summary>
    internal ulong Aliased(bool leaves)
    {
        ulong table = Guest.AllocateTable();
        if (leaves)
            Fill(table, First);
        for (int level = 2; level <= Guest.Levels; level++)
        {
            ulong above = Guest.AllocateTable();
            for (ulong index = 0; index < 512; index++)
                Guest.Write64(above + (index * 8), table | 3);
            table = above;
        }

        return table;
    }

    internal void Send(Command command, int descriptors = 1)
    {
        switch (command)
        {
            case Command.QueueOfDomains or Command.QueueOfContexts:
                for (int index = 0; index < descriptors; index++)
                    Guest.Queued(command == Command.QueueOfContexts && index % 2 == 0 ? ContextGlobal : IotlbGlobal);
                Guest.Queued(Guest.Wait(0x5A));
                Guest.Write32(Iqt, (uint)Guest.Tail << 4);
                break;
            case Command.ContextRegister:
                Guest.WriteRegister64(Ccmd, (1UL << 63) | (1UL << 61));
                break;
            case Command.IotlbRegister:
                Guest.WriteRegister64(IotlbReg, (1UL << 63) | (1UL << 60));
                break;
            case Command.RootTable:
                Guest.Write32(Gcmd, Te | Srtp);
                break;
            default:
                Guest.Write32(Gcmd, 0);
                break;
        }
    }

    /// <summary>What software looks at.</summary>
    internal bool IsDone(Command command) => command switch
    {
        Command.ContextRegister => Guest.ReadRegister64(Ccmd) >> 63 == 0,
        Command.IotlbRegister => Guest.ReadRegister64(IotlbReg) >> 63 == 0,
        Command.RootTable => (Guest.Read32(Gsts) & Srtp) != 0,
        Command.TranslationOff => (Guest.Read32(Gsts) & Te) == 0,
        _ => Guest.Read64(Guest.StatusWord) == 0x5A && Guest.ReadRegister64(Iqh) == Guest.ReadRegister64(Iqt),
    };

    /// <summary>What every device has been told is what the unit believes it was.</summary>
    internal void CheckRecords() => Assert.Equal(Live.Sum(device => device.Count), Guest.Iommu.Churn.Live);

    internal void CheckEffect(Command command)
    {
        CheckRecords();
        for (int device = 0; device < Devices; device++)
        {
            if (command == Command.TranslationOff)
            {
                Assert.Empty(Live[device]);
                Assert.True(Guest.Functions[device].DmaSpace.IsSystemMemory);
            }
            else
            {
                CheckDevice(device, Other);
            }
        }
    }

    internal void CheckDevice(int device, ulong target)
    {
        Assert.Equal(Pages, Live[device].Count);
        for (ulong page = 0; page < Pages; page++)
            Assert.Equal(target + ((page % 512) << 12), Live[device][page << 12]);
    }

    internal void RenumberABus()
    {
        var port = new Pci.PciBridge("port", Pci.PciBridgeKind.RootPort);
        Guest.Pci.RootBus.Attach(port, new Pci.DevFn(1, 0));
        _ = Guest.Iommu.GetAddressSpace(port.Secondary, default);
        port.WriteConfig(0x19, 7, 1);
    }

    internal void CopyRamTo(WorkRig target)
    {
        byte[] memory = new byte[RamSize];
        Guest.Block.Read(0, memory);
        target.Guest.Block.Write(0, memory, DirtySource.Vmm);
    }

    private void Fill(ulong leaves, ulong target)
    {
        for (ulong index = 0; index < 512; index++)
            Guest.Write64(leaves + (index * 8), (target + (index << 12)) | 3);
    }

    private void Happened()
    {
        Events++;
        OnEvent?.Invoke();
    }

    /// <summary>Keeps what a device was told, of small pages.</summary>
    private sealed class Keeper(WorkRig rig, int device) : IMemoryListener, IIommuListener
    {
        public void RegionAdded(in FlatRange range) => (range.Region as IommuRegion)?.AddListener(this, range.Range);

        public void RegionRemoved(in FlatRange range)
        {
            if (range.Region is not IommuRegion region)
                return;
            region.RemoveListener(this);
            rig.Live[device].Clear();
        }

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            Assert.Equal(0x1000ul, length);
            rig.Live[device].Add(iova.Value, target.Value);
            rig.Happened();
        }

        public void Unmapped(Iova iova, ulong length)
        {
            for (ulong at = 0; at < length; at += 0x1000)
                Assert.True(rig.Live[device].Remove(iova.Value + at));
            rig.Happened();
        }

        public void BatchEnd() => rig.OnBatchEnd?.Invoke();
    }
}
