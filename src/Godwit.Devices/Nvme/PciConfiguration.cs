using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>What a configuration write asks the controller to do.</summary>
[Flags]
internal enum PciEffect
{
    None = 0,

    /// <summary>Something that decides about interrupts changed.</summary>
    Interrupts = 1,

    /// <summary>Initiate Function Level Reset was written.</summary>
    FunctionReset = 2,
}

/// <summary>
/// Configuration space with its write masks (PCI Express Base 5.0, 7.5). Clients emulate much of it themselves; this is what it would be
/// without them. Bus mastering and memory decoding are not enforced here: the client grants memory by mapping it. Message thread only.
/// </summary>
internal sealed class PciConfiguration
{
    /// <summary>Bytes that can hold anything but 0, which is what migrates.</summary>
    public const int Used = 256;

    private const int Command = 0x04;
    private const int Status = 0x06;
    private const int DeviceControl = PciIdentity.Express + 0x08;
    private const ushort InitiateReset = 1 << 15;
    private const ushort InterruptDisable = 1 << 10;

    private readonly MaskedConfigSpace _bytes = new(Used);

    /// <summary>Power-on state of a function with <paramref name="vectors"/> MSI-X vectors.</summary>
    public PciConfiguration(int vectors)
    {
        // Type 0 header (7.5.1).
        _bytes.Define16(0x00, PciIdentity.Vendor);
        _bytes.Define16(0x02, PciIdentity.Device);
        _bytes.Define16(Command, 0, writable: 0x0546);          // memory, bus master, parity, SERR#, interrupt disable
        _bytes.Define16(Status, 0x0010);                        // capabilities list
        _bytes.Define32(0x08, PciIdentity.ClassCode << 8 | 2);  // revision 2
        _bytes.Define8(0x0C, 0, writable: 0xFF);                // cache line size
        _bytes.Define32(0x10, 0x4, writable: ~(uint)(PciIdentity.Bar0Size - 1)); // BAR0: 64-bit memory
        _bytes.Define32(0x14, 0, writable: 0xFFFF_FFFF);
        _bytes.Define16(0x2C, PciIdentity.SubsystemVendor);
        _bytes.Define16(0x2E, PciIdentity.Subsystem);
        _bytes.Define8(0x34, PciIdentity.PowerManagement);
        _bytes.Define8(0x3C, 0, writable: 0xFF);                // interrupt line
        _bytes.Define8(0x3D, 1);                                // INTA#

        // Power management (7.5.2): version 3, D0 and D3hot, state kept across D3hot.
        _bytes.Define8(PciIdentity.PowerManagement, 0x01);
        _bytes.Define8(PciIdentity.PowerManagement + 1, PciIdentity.Msix);
        _bytes.Define16(PciIdentity.PowerManagement + 2, 0x0003);
        _bytes.Define16(PciIdentity.PowerManagement + 4, 0x0008, writable: 0x0003);

        // MSI-X (7.7.2): table and pending bits in BAR0.
        _bytes.Define8(PciIdentity.Msix, 0x11);
        _bytes.Define8(PciIdentity.Msix + 1, PciIdentity.Express);
        _bytes.Define16(PciIdentity.Msix + 2, (ushort)(vectors - 1), writable: 0xC000);
        _bytes.Define32(PciIdentity.Msix + 4, PciIdentity.MsixTableOffset);
        _bytes.Define32(PciIdentity.Msix + 8, PciIdentity.MsixPendingOffset);

        // PCI Express (7.5.3): version 2 endpoint with function level reset, 8 GT/s x4.
        _bytes.Define8(PciIdentity.Express, 0x10);
        _bytes.Define16(PciIdentity.Express + 0x02, 0x0002);
        _bytes.Define32(PciIdentity.Express + 0x04, (1u << 28) | (1u << 15));
        _bytes.Define16(DeviceControl, 0x2810, writable: 0x79FF);
        _bytes.Define32(PciIdentity.Express + 0x0C, (1u << 22) | 0x43);
        _bytes.Define16(PciIdentity.Express + 0x10, 0, writable: 0x01C0);
        _bytes.Define16(PciIdentity.Express + 0x12, 0x0043);
        _bytes.Define32(PciIdentity.Express + 0x24, 1u << 4);
        _bytes.Define16(PciIdentity.Express + 0x28, 0, writable: 0x001F);
        _bytes.Define32(PciIdentity.Express + 0x2C, 0x0E);
        _bytes.Define16(PciIdentity.Express + 0x30, 0x0003);
    }

    /// <summary>MSI-X Enable.</summary>
    public bool MsixEnabled => (_bytes.Get16(PciIdentity.Msix + 2) & 0x8000) != 0;

    /// <summary>Interrupt Disable.</summary>
    public bool PinDisabled => (_bytes.Get16(Command) & InterruptDisable) != 0;

    /// <summary>Back to power-on state.</summary>
    public void Reset() => _bytes.Reset();

    /// <summary>Reads; beyond <see cref="Used"/> all is 0. <paramref name="pinAsserted"/> is what Interrupt Status shows.</summary>
    public void Read(int offset, Span<byte> destination, bool pinAsserted) => _bytes.Read(offset, destination, pinAsserted);

    /// <summary>Writes what is writable.</summary>
    public PciEffect Write(int offset, ReadOnlySpan<byte> data)
    {
        var effect = PciEffect.None;
        for (int i = 0; i < data.Length && offset + i < Used; i++)
        {
            int at = offset + i;
            if (at == DeviceControl + 1 && (data[i] & (InitiateReset >> 8)) != 0)
                effect |= PciEffect.FunctionReset;
            if (at is Command + 1 or PciIdentity.Msix + 3)
                effect |= PciEffect.Interrupts;
        }

        _bytes.Write(offset, data);
        return effect;
    }

    /// <summary>A copy for migration.</summary>
    public byte[] Capture() => _bytes.Values.ToArray();

    /// <summary>Whether <paramref name="values"/> could be this function's: <see cref="Used"/> bytes that differ in writable bits only.</summary>
    public bool Accepts(ReadOnlySpan<byte> values) => _bytes.Accepts(values);

    /// <summary>Takes over accepted values.</summary>
    public void Restore(ReadOnlySpan<byte> values) => _bytes.Restore(values);
}
