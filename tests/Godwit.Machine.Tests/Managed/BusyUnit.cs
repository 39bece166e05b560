using Godwit.Iommu.Intel;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Machine.Tests;

/// <summary>
/// Tables of 102,400 small pages for a function of its own, which is more than the vIOMMU announces in one register write, with a queue of global
/// invalidations; and a listener that counts what the function is told.
/// </summary>
internal sealed class BusyUnit : IMemoryListener, IIommuListener
{
    private const ulong Root = 0x10_0000, Contexts = 0x10_1000, Queue = 0x10_2000, Table = 0x10_3000, Middle = 0x10_4000, Leaves = 0x10_5000;
    private const ulong GlobalInvalidation = VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbGlobal;

    private long _events;

    internal BusyUnit(GuestBus bus, PciHostBridge host)
    {
        var function = new Function();
        host.RootBus.Attach(function, new DevFn(3, 0));
        function.DmaSpace.AddListener(this);
        ulong context = Contexts + (function.RequesterId.Value * 16ul);
        bus.Store(new Gpa(Root), Contexts | VtdRegisters.Present);
        bus.Store(new Gpa(context + 8), 1UL | (1 << VtdRegisters.ContextDomainShift)); // AW 1: three levels (9.3)
        bus.Store(new Gpa(context), Table | VtdRegisters.Present);
        bus.Store(new Gpa(Table), Middle | 3);
        for (ulong index = 0; index < 200; index++)
            bus.Store(new Gpa(Middle + (index * 8)), Leaves | 3); // the same pages 200 times
        for (ulong index = 0; index < 256; index++)
            bus.Store(new Gpa(Queue + (index * 16)), GlobalInvalidation);
        SpoilTables(bus, 0);
    }

    internal long Events => Volatile.Read(ref _events);

    /// <summary>Pages mapped.</summary>
    internal long Live { get; private set; }

    /// <summary>Told the name of the thread.</summary>
    internal Action<string>? OnMapped { get; set; }

    /// <summary>Other pages than those of another <paramref name="step"/>.</summary>
    internal static void SpoilTables(GuestBus bus, ulong step)
    {
        for (ulong index = 0; index < 512; index++)
            bus.Store(new Gpa(Leaves + (index * 8)), (0x100_0000 + (((index + step) % 1024) << 12)) | 3);
    }

    /// <summary>Tables, queue and translation, in one command.</summary>
    internal static void SwitchOn(GuestBus bus)
    {
        Gpa registers = IntelIommu.RegisterBase;
        bus.WriteMmio(registers + VtdRegisters.RootTableAddress, Root, 8);
        bus.WriteMmio(registers + VtdRegisters.QueueAddress, Queue, 8);
        bus.WriteMmio(registers + VtdRegisters.GlobalCommand, VtdRegisters.SetRootTable | VtdRegisters.QueueEnable | VtdRegisters.TranslationEnable, 4);
    }

    public void RegionAdded(in FlatRange range) => (range.Region as IommuRegion)?.AddListener(this, range.Range);

    public void RegionRemoved(in FlatRange range) => (range.Region as IommuRegion)?.RemoveListener(this);

    public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
    {
        OnMapped?.Invoke(Thread.CurrentThread.Name ?? "");
        Live++;
        Volatile.Write(ref _events, _events + 1);
    }

    public void Unmapped(Iova iova, ulong length)
    {
        Live -= (long)(length >> 12);
        Volatile.Write(ref _events, _events + 1);
    }

    private sealed class Function : PciFunction
    {
        internal Function() : base("test") => SetIdentity(0x1234, 0x5678, 0xFF_00_00);
    }
}
