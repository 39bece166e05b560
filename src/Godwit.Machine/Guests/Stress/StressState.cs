using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>
/// Copies the program's state out of guest RAM and back. What bounds a loop is checked here, so that a step stays short whatever
/// somebody has written there.
/// </summary>
internal static class StressState
{
    public static StressControl LoadControl(GuestBus bus)
    {
        var control = bus.Load<StressControl>(StressLayout.Control);
        ref readonly StressOptions options = ref control.Options;
        if (control.Magic != StressControl.MagicValue
            || control.ControllerCount > StressLayout.MaxControllers
            || options.QueueDepth is < 1 or > StressOptions.MaxQueueDepth
            || options.MaxBlocks is < 1 or > (int)(StressOptions.MaxIoSize / StressOptions.BlockSize)
            || options.RegionBlocks > (ulong)(StressOptions.MaxRegion / StressOptions.BlockSize))
        {
            throw new GuestPanicException("control block damaged");
        }

        return control;
    }

    public static void StoreControl(GuestBus bus, in StressControl control) => bus.Store(StressLayout.Control, control);

    public static ControllerState LoadController(GuestBus bus, in StressControl control, int index)
    {
        var device = bus.Load<ControllerState>(StressLayout.Controller(index));
        if (device.Admin.Entries > ControllerStage.AdminEntries
            || device.Io.Entries > StressOptions.MaxQueueDepth + 1
            || device.MaxBlocks > control.Options.MaxBlocks
            || device.Blocks > control.Options.RegionBlocks
            || device.PagesPerSlot > StressSizing.PagesPerSlot(control.Options)
            || device.FreeCount > control.Options.QueueDepth
            || device.DoneCount > control.Options.QueueDepth
            || device.FlushCount > StressSizing.FlushEntries
            || device.ChurnCount > StressSizing.ChurnBuffers)
        {
            throw new GuestPanicException($"state of controller {index} damaged");
        }

        return device;
    }

    public static void StoreController(GuestBus bus, int index, in ControllerState device) => bus.Store(StressLayout.Controller(index), device);

    public static CommandSlot LoadSlot(GuestBus bus, in StressControl control, in ControllerState device, uint id)
    {
        var slot = bus.Load<CommandSlot>(SlotAddress(control, device, id));
        if (slot.BlockCount > device.MaxBlocks || slot.PageCount > device.PagesPerSlot)
            throw new GuestPanicException($"slot {id} damaged: {slot.BlockCount} blocks, {slot.PageCount} pages");
        return slot;
    }

    public static void StoreSlot(GuestBus bus, in StressControl control, in ControllerState device, uint id, in CommandSlot slot) =>
        bus.Store(SlotAddress(control, device, id), slot);

    /// <summary>The page that is number <paramref name="page"/> of a slot's buffer.</summary>
    public static Gpa LoadSlotPage(GuestBus bus, in ControllerState device, uint id, uint page) =>
        new(bus.Load<ulong>(SlotPageAddress(device, id, page)));

    public static void StoreSlotPage(GuestBus bus, in ControllerState device, uint id, uint page, Gpa value) =>
        bus.Store(SlotPageAddress(device, id, page), value.Value);

    private static Gpa SlotAddress(in StressControl control, in ControllerState device, uint id)
    {
        if (id >= control.Options.QueueDepth)
            throw new GuestPanicException($"slot {id} of {control.Options.QueueDepth}");
        return device.Slots + (id * (ulong)CommandSlot.Size);
    }

    private static Gpa SlotPageAddress(in ControllerState device, uint id, uint page)
    {
        if (page >= device.PagesPerSlot)
            throw new GuestPanicException($"page {page} of a slot with {device.PagesPerSlot}");
        return device.SlotPages + (((id * (ulong)device.PagesPerSlot) + page) * 8);
    }
}
