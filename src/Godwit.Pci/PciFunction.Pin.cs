using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <content>The interrupt pin (INTx): a level, from the function over the bridges above to an input of the root complex.</content>
public abstract partial class PciFunction
{
    private readonly Lock _pinDriving = new();
    private volatile bool _interrupt;
    private bool _driven; // under _pinDriving

    /// <summary>The pin, 1 (INTA#) to 4 (INTD#); 0 when it has none (PCI Express 5.0, 7.5.1.1.13).</summary>
    public int InterruptPin => (int)Config.Read(ConfigOffset.InterruptPin, 1);

    /// <summary>Which input of the root complex the pin leads to, 0 to <see cref="PciHostBridge.InterruptInputs"/> - 1. It has a pin and is plugged.</summary>
    public int InterruptInput => Bus.RoutePin(DevFn, InterruptPin - 1);

    /// <summary>Whether the guest lets the function drive its pin (Interrupt Disable, PCI Express 5.0, 7.5.1.1.3).</summary>
    protected bool PinEnabled => (Config.Read(ConfigOffset.Command, 2) & ConfigBits.CommandInterruptDisable) == 0;

    /// <summary>Gives it a pin, 1 to 4. Before it is plugged.</summary>
    protected void SetInterruptPin(int pin)
    {
        if (pin is < 1 or > 4)
            throw new ArgumentOutOfRangeException(nameof(pin), pin, "INTA# to INTD# are 1 to 4");
        Config.Define(ConfigOffset.InterruptPin, 1, (uint)pin);
    }

    /// <summary>
    /// Whether the function wants an interrupt by its pin: Interrupt Status, and the pin itself unless the guest has disabled it. It stays so until
    /// it is told otherwise, or a reset. Any thread.
    /// </summary>
    protected void SetInterrupt(bool wanted)
    {
        _interrupt = wanted;
        DrivePin();
    }

    /// <summary>
    /// A CPU has said that it has handled an interrupt of the input that the pin leads to: one that is still wanted will be sent again. Called without
    /// locks, when the pin is driven.
    /// </summary>
    protected internal virtual void OnInterruptEnded() { }

    /// <summary>The last of <see cref="SetInterrupt"/>.</summary>
    protected bool InterruptWanted => _interrupt;

    internal bool IsPinDriven => Volatile.Read(ref _driven);

    /// <summary>Brings the input up to date with what the function wants and the guest allows.</summary>
    private void DrivePin()
    {
        if (_bus is null || InterruptPin == 0)
            return;
        lock (_pinDriving)
        {
            bool wanted = _interrupt && PinEnabled;
            if (wanted == _driven)
                return;
            _driven = wanted;
            _bus.Host.Drive(InterruptInput, wanted);
        }
    }

    /// <summary>Interrupt Status where <paramref name="offset"/> and <paramref name="size"/> take it in; it is no part of what is saved.</summary>
    private uint InterruptStatus(int offset, int size)
    {
        // bit 3 of the lower byte of Status (7.5.1.1.4)
        int shift = (ConfigOffset.Status - offset) * 8;
        return _interrupt && shift >= 0 && shift < size * 8 ? ConfigBits.StatusInterrupt << shift : 0;
    }
}
