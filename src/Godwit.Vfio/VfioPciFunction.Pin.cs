using Godwit.Pci.Spec;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <content>
/// The interrupt pin. The device masks its index when it signals (vfio.h, VFIO_IRQ_INFO_AUTOMASKED); the pin is high from then on until a CPU says that it has
/// handled an interrupt of that input, which unmasks: a device that still wants one signals again at once.
/// </content>
public sealed partial class VfioPciFunction
{
    /// <summary>While the guest's driver works the device and has not chosen messages, nor switched the pin off.</summary>
    private bool PinWanted => _layout.Pin != 0 && PinEnabled && (Config.Read(ConfigOffset.Command, 2) & ConfigBits.CommandMemorySpace) != 0;

    /// <inheritdoc/>
    protected override void OnInterruptEnded()
    {
        lock (_interruptSetup)
        {
            SetInterrupt(false);
            if (_interruptsSet.Index != PciIrq.Intx)
                return;
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
    }

    private void RaisePin()
    {
        lock (_interruptSetup)
        {
            if (_interruptsSet.Index == PciIrq.Intx)
                SetInterrupt(true);
        }
    }
}
