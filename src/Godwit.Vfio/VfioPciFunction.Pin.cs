using Godwit.Pci.Spec;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <content>
/// The interrupt pin. The device masks its index when it signals (vfio.h, VFIO_IRQ_INFO_AUTOMASKED); the pin is high from then on until a CPU says that it has
/// handled an interrupt of that input, which unmasks: a device that still wants one signals again at once. Servers that know no masking signal whenever they
/// want, so that what comes while the pin is high keeps it high for another interrupt.
/// </content>
public sealed partial class VfioPciFunction
{
    private bool _pinAgain; // signalled while it was high, under _interruptSetup

    /// <summary>While the guest's driver works the device and has not chosen messages, nor switched the pin off.</summary>
    private bool PinWanted => _layout.Pin != 0 && PinEnabled && (Config.Read(ConfigOffset.Command, 2) & ConfigBits.CommandMemorySpace) != 0;

    /// <inheritdoc/>
    protected override void OnInterruptEnded()
    {
        lock (_interruptSetup)
        {
            if (!_pinAgain)
                SetInterrupt(false);
            _pinAgain = false;
            if (_interruptsSet.Index == PciIrq.Intx)
                UnmaskPin();
        }
    }

    /// <summary>Under <see cref="_interruptSetup"/>. A pin that stays masked is no reason not to migrate: the guest may not need it.</summary>
    private void UnmaskPin()
    {
        try
        {
            _device.UnmaskIrq(PciIrq.Intx);
        }
        catch (DeviceRefusedException e)
        {
            _notices.PostOnce(NoticeKind.Pin, $"{Id}: the device does not unmask its interrupt pin: {e.Message}");
        }
        catch (DeviceLostException)
        {
            // Lost says so.
        }
    }

    private void RaisePin()
    {
        lock (_interruptSetup)
        {
            if (_interruptsSet.Index != PciIrq.Intx)
                return;
            _pinAgain = InterruptWanted;
            SetInterrupt(true);
        }
    }
}
