using System.Buffers.Binary;
using Godwit.Memory;
using Godwit.Pci;
using Godwit.Pci.Spec;
using Godwit.Vfio.Spec;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <content>Configuration space, BARs and interrupts: emulated from the device's own, which takes part where it must know.</content>
public sealed partial class VfioPciFunction
{
    /// <summary>No index of a device.</summary>
    private const int NoInterrupts = -1;

    private readonly Lock _interruptSetup = new();
    private InterruptPump? _interrupts;
    private (int Index, int Count) _interruptsSet = (NoInterrupts, 0); // in the device, under _interruptSetup
    private bool _interruptsFailed; // the last time, under _interruptSetup: the next tries again
    private volatile string? _interruptsRefused; // what the device answered, while the guest wants what it refused
    private int _messages; // eventfds of MSI and MSI-X vectors; that of the pin comes behind them
    private int _express;
    private readonly Lock _commandPush = new();
    private bool _dmaHeld; // under _commandPush

    /// <inheritdoc/>
    public override void WriteConfig(int offset, uint value, int size)
    {
        base.WriteConfig(offset, value, size);
        if (Touches(offset, size, ConfigOffset.Command, 2))
        {
            PushCommand();
            SetInterrupts(again: false);
        }

        if (_express != 0 && _layout.CanReset && Touches(offset, size, _express + ExpressRegisters.DeviceControl, 2)
            && (Shifted(offset, value, _express + ExpressRegisters.DeviceControl) & ExpressRegisters.InitiateFunctionLevelReset) != 0)
            Reset();
    }

    /// <inheritdoc/>
    public override void Reset()
    {
        base.Reset();
        try
        {
            ResetDevice();
            _states.ResetByGuest();
        }
        catch (DeviceRefusedException e)
        {
            _notices.PostOnce(NoticeKind.Configuration, $"{Id}: {e.Message}");
        }
        catch (DeviceLostException)
        {
            // Lost says so.
        }
    }

    /// <inheritdoc/>
    public override void LoadState(ReadOnlySpan<byte> state)
    {
        base.LoadState(state);
        PushCommand();
        SetInterrupts(again: true);
    }

    /// <inheritdoc/>
    protected override void OnMsixControlChanged() => SetInterrupts(again: false);

    /// <inheritdoc/>
    protected override void OnMsiControlChanged() => SetInterrupts(again: false);

    private void BuildConfiguration()
    {
        SetIdentity(_layout.Vendor, _layout.Device, _layout.ClassCode, _layout.Revision, _layout.SubsystemVendor, _layout.Subsystem);
        // A store through a mapping overtakes a posted write, and the device counts on the order as soon as it offers one.
        bool post = !_layout.Bars.Any(b => b.Mappable);
        MsixTable? msix = _layout.Msix is { } layout ? new MsixTable(this, layout.Vectors) : null;
        foreach (DeviceBar bar in _layout.Bars)
            SetBar(bar.Index, bar.Kind, bar.Prefetchable, BuildBar(bar, msix, post));
        if (msix is not null)
        {
            MsixLayout at = _layout.Msix!;
            msix.AddCapability(at.TableBar, at.TableOffset, at.PendingBar, at.PendingOffset, at.Capability);
        }

        if (_layout.Msi is { } msi && VectorsOf(PciIrq.Msi) > 0)
            _ = new MsiMessages(this, msi.Vectors, msi.Wide, msi.Capability);
        if (_layout.Pin != 0)
            SetInterruptPin(_layout.Pin);
        _messages = Math.Max(VectorsOf(PciIrq.Msix), VectorsOf(PciIrq.Msi));
        if (msix is not null || Msi is not null || _layout.Pin != 0)
            _interrupts = new InterruptPump(Id, _layout.Pin != 0 ? _messages + 1 : _messages, Deliver);

        if (_layout.Express is { } express)
            AddExpress(express.Offset, express.PortType);
        foreach (string omitted in _layout.Omitted)
            _notices.Post($"{Id}: {omitted}");
        if (_leavesState)
        {
            _notices.Post(
                $"{Id}: it cannot save its state, and a migration leaves that behind (enable-migration=force); the guest finds a device there that has been reset, and must set it up again");
        }
    }

    /// <summary>Vectors of an index that device and guest have both.</summary>
    private int VectorsOf(int index)
    {
        int guest = index == PciIrq.Msix ? _layout.Msix?.Vectors ?? 0 : _layout.Msi?.Vectors ?? 0;
        return _layout.IrqCounts.Length > index ? Math.Min(_layout.IrqCounts[index], guest) : 0;
    }

    /// <summary>A vector of whichever kind is enabled in the guest; MSI-X if both are (PCI Express 5.0, 6.1.4: a guest must not enable both).</summary>
    private void Deliver(int vector)
    {
        if (vector == _messages)
            RaisePin();
        else if (Msix is { Enabled: true } msix && vector < msix.Vectors)
            msix.Raise(vector);
        else if (Msi is { } msi && vector < msi.Vectors)
            msi.Raise(vector);
    }

    /// <summary>What cannot be mapped is reached as without.</summary>
    private void MapBar(int index, IReadOnlyList<SparseArea> doorbells)
    {
        List<SparseArea> keepOut = [.. doorbells]; // a store into mapped memory would ring none
        if (_layout.Msix is { } msix)
        {
            if (msix.TableBar == index)
                keepOut.Add(new SparseArea(msix.TableOffset, msix.TableBytes));
            if (msix.PendingBar == index)
                keepOut.Add(new SparseArea(msix.PendingOffset, msix.PendingBytes));
        }

        try
        {
            _device.MapRegion(index, keepOut.ToArray());
        }
        catch (DeviceRefusedException e)
        {
            _notices.Post($"{Id}: BAR {index} is not mapped, so each access to it is a call: {e.Message}");
        }
    }

    /// <summary>All of the BAR is trapped; the MSI-X table and pending bits, which are the VMM's, lie over it.</summary>
    private ContainerRegion BuildBar(DeviceBar bar, MsixTable? msix, bool post)
    {
        var region = new ContainerRegion($"{Id} bar {bar.Index}", bar.BarBytes);
        IReadOnlyList<SparseArea> doorbells = _device.UseDoorbells(bar.Index, bar.RegionBytes);
        if (_options.MapBars)
            MapBar(bar.Index, doorbells);
        var access = new BarAccess(_device, Id, bar.Index, post, _notices);
        using TopologyTransaction transaction = _topology.Begin();
        _topology.Add(region, default, new MmioRegion($"{Id} bar {bar.Index} trapped", bar.RegionBytes, access));
        if (msix is not null && _layout.Msix is { } at)
        {
            if (at.TableBar == bar.Index)
                _topology.Add(region, new BusAddress(at.TableOffset), msix.TableRegion, priority: 1);
            if (at.PendingBar == bar.Index)
                _topology.Add(region, new BusAddress(at.PendingOffset), msix.PendingRegion, priority: 1);
        }

        return region;
    }

    private void AddExpress(int offset, int portType)
    {
        // Where the device has it, unless ours, which may be longer, would reach into MSI or MSI-X.
        bool clash = Reaches(_layout.Msix?.Capability, MsixRegisters.Length) || Reaches(_layout.Msi?.Capability, MsiRegisters.Length);
        bool fits = offset >= ConfigOffset.FirstCapability && offset % 4 == 0 && offset <= ConfigOffset.ConventionalSize - ExpressRegisters.Length;
        var type = (ExpressPortType)portType == ExpressPortType.RootComplexEndpoint ? ExpressPortType.RootComplexEndpoint : ExpressPortType.Endpoint;
        _express = AddExpressCapability(type, fits && !clash ? offset : null);
        if (_layout.CanReset)
        {
            uint capabilities = Config.Read(_express + ExpressRegisters.DeviceCapabilities, 4);
            Config.Define(_express + ExpressRegisters.DeviceCapabilities, 4, capabilities | ExpressRegisters.FunctionLevelResetCapable);
        }

        bool Reaches(int? other, int length) => other is { } at && offset < at + length && at < offset + ExpressRegisters.Length;
    }

    /// <summary>The device must know of bus mastering and memory space.</summary>
    private void PushCommand()
    {
        try
        {
            lock (_commandPush)
                WriteCommand();
        }
        catch (DeviceRefusedException e)
        {
            _notices.PostOnce(NoticeKind.Configuration, $"{Id}: the device does not take its command register: {e.Message}");
        }
        catch (DeviceLostException)
        {
            // Lost says so; the guest sees a function that does nothing.
        }
    }

    /// <summary>What the guest has in it, as it is now: two vCPUs that write it at a time must not leave the older in the device. Under <see cref="_commandPush"/>.</summary>
    private void WriteCommand()
    {
        uint value = Config.Read(ConfigOffset.Command, 2);
        if (_dmaHeld)
            value &= ~(uint)ConfigBits.CommandBusMaster;
        Span<byte> command = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(command, (ushort)value);
        _device.WriteRegion(PciRegion.Config, ConfigOffset.Command, command, posted: false);
    }

    /// <summary>
    /// Keeps Bus Master Enable from the device, whatever the guest says, or gives it what the guest says. A function without it sends no memory
    /// request (PCI Express 5.0, 7.5.1.1.3), and the completion of a read does not overtake what it has sent before (2.4.1).
    /// </summary>
    private void HoldDma(bool held)
    {
        lock (_commandPush)
        {
            _dmaHeld = true;
            if (!held)
            {
                LetDmaGo();
                return;
            }

            WriteCommand();
            Span<byte> command = stackalloc byte[2];
            _device.ReadRegion(PciRegion.Config, ConfigOffset.Command, command);
            if ((BinaryPrimitives.ReadUInt16LittleEndian(command) & ConfigBits.CommandBusMaster) != 0)
                throw new DeviceRefusedException("to have its DMA held back (Bus Master Enable stays set)", Interop.Linux.Errno.EIO);
        }
    }

    private void LetDmaGo()
    {
        _dmaHeld = false;
        try
        {
            WriteCommand();
        }
        catch (DeviceRefusedException)
        {
            _dmaHeld = true; // as it is in the device
            throw;
        }
    }

    /// <summary>Gives the device the eventfds of what the guest has enabled, and takes back those of what it has not: a device has one kind at a time.</summary>
    private void SetInterrupts(bool again)
    {
        lock (_interruptSetup)
        {
            (int Index, int Count) wanted = Msix is { Enabled: true } ? (PciIrq.Msix, VectorsOf(PciIrq.Msix))
                : Msi is { EnabledVectors: > 0 } msi ? (PciIrq.Msi, Math.Min(msi.EnabledVectors, VectorsOf(PciIrq.Msi)))
                : PinWanted ? (PciIrq.Intx, 1)
                : (NoInterrupts, 0);
            _interruptsRefused = null; // or the same again
            if (_interrupts is null || (wanted == _interruptsSet && !again && !_interruptsFailed))
                return;
            _interruptsFailed = false;
            try
            {
                if (_interruptsSet.Index != NoInterrupts && _interruptsSet != wanted)
                {
                    _device.DisableIrqs(_interruptsSet.Index);
                    _interruptsSet = (NoInterrupts, 0);
                    _pinAgain = false;
                    SetInterrupt(false);
                }

                if (wanted.Index == NoInterrupts)
                    return;
                _device.SetIrqEventFds(wanted.Index, wanted.Index == PciIrq.Intx ? _interrupts.Vectors[_messages..] : _interrupts.Vectors[..wanted.Count]);
                _interruptsSet = wanted;
                if (again && wanted.Index == PciIrq.Intx)
                    UnmaskPin(); // what it signalled before a reset will not be ended any more
            }
            catch (DeviceRefusedException e)
            {
                _interruptsFailed = true;
                bool pin = wanted.Index == PciIrq.Intx; // a guest that polls has it enabled, too
                if (!pin)
                    _interruptsRefused = e.Errno.ToString();
                _notices.PostOnce(pin ? NoticeKind.Pin : NoticeKind.Interrupts, $"{Id}: the device does not take its interrupts: {e.Message}");
            }
            catch (DeviceLostException)
            {
                // Lost says so.
            }
        }
    }

    /// <summary>Function-level reset, then what the VMM had set up in the device.</summary>
    private void ResetDevice()
    {
        if (!_layout.CanReset)
            throw new DeviceRefusedException("DEVICE_RESET", Interop.Linux.Errno.ENOTSUP);
        _device.Reset();
        PushCommand();
        SetInterrupts(again: true);
    }

    private static bool Touches(int offset, int size, int register, int registerSize) => offset < register + registerSize && register < offset + size;

    /// <summary>What a write puts into a 16-bit register that it touches.</summary>
    private static uint Shifted(int offset, uint value, int register)
    {
        ulong wide = offset <= register ? (ulong)value >> ((register - offset) * 8) : (ulong)value << ((offset - register) * 8);
        return (uint)wide & 0xFFFF;
    }
}
