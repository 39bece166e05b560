using System.Numerics;

namespace Godwit.VfioUser;

/// <summary>
/// Conventional configuration space of a device with its write masks (PCI Local Bus 3.0, 6.1): type 0 header, MSI, MSI-X. Clients emulate
/// much of it themselves; this is what it would be without them.
/// </summary>
internal sealed class PciConfigSpace
{
    /// <summary>Bytes.</summary>
    public const int Size = 256;

    /// <summary>Bytes of an MSI-X table entry (6.8.2.6).</summary>
    public const int MsixEntrySize = 16;

    private const int Command = 0x04;
    private const int Status = 0x06;
    private const int Bar0 = 0x10;
    private const int BarCount = 6;
    private const int CapabilityPointer = 0x34;
    private const int Msi = 0x40;
    private const int Msix = 0x50;
    private const byte MsiId = 0x05;
    private const byte MsixId = 0x11;
    private const ushort MsiEnable = 1;
    private const ushort MsixEnable = 1 << 15;
    private const ushort InterruptDisable = 1 << 10;

    private readonly MaskedConfigSpace _bytes = new(Size);

    /// <summary>Power-on state.</summary>
    /// <exception cref="ArgumentException">The definition contradicts itself or the specification.</exception>
    public PciConfigSpace(PciDefinition definition)
    {
        if (definition.ClassCode > 0xFF_FFFF)
            throw new ArgumentException($"The class code 0x{definition.ClassCode:x} has more than 24 bits.", nameof(definition));
        if (definition.MsiVectors is < 0 or > 32 || (definition.MsiVectors != 0 && !BitOperations.IsPow2(definition.MsiVectors)))
            throw new ArgumentException($"{definition.MsiVectors} MSI vectors; 0 or a power of two up to 32 can be had.", nameof(definition));
        if (definition.MsixVectors is < 0 or > WireLimits.MaxVectors)
            throw new ArgumentException($"{definition.MsixVectors} MSI-X vectors; 0 to {WireLimits.MaxVectors} can be had.", nameof(definition));

        _bytes.Define16(0x00, definition.VendorId);
        _bytes.Define16(0x02, definition.DeviceId);
        _bytes.Define16(Command, 0, writable: 0x0547); // I/O, memory, bus master, parity, SERR#, interrupt disable
        _bytes.Define32(0x08, (definition.ClassCode << 8) | definition.Revision);
        _bytes.Define8(0x0C, 0, writable: 0xFF); // cache line size
        _bytes.Define16(0x2C, definition.SubsystemVendorId);
        _bytes.Define16(0x2E, definition.SubsystemId);
        _bytes.Define8(0x3C, 0, writable: 0xFF); // interrupt line
        _bytes.Define8(0x3D, (byte)(definition.HasPin ? 1 : 0));

        Bars = new ulong[BarCount];
        foreach (PciBar bar in definition.Bars)
            AddBar(bar);
        int next = CapabilityPointer;
        if (definition.MsiVectors != 0)
        {
            next = Link(next, Msi, MsiId);
            // 6.8.1: 64-bit address, no masking of single vectors; the guest chooses how many of the vectors it uses.
            _bytes.Define16(Msi + 2, (ushort)(0x80 | (BitOperations.Log2((uint)definition.MsiVectors) << 1)), writable: 0x71);
            _bytes.Define32(Msi + 4, 0, writable: 0xFFFF_FFFC);
            _bytes.Define32(Msi + 8, 0, writable: 0xFFFF_FFFF);
            _bytes.Define16(Msi + 12, 0, writable: 0xFFFF);
        }
        if (definition.MsixVectors != 0)
        {
            Link(next, Msix, MsixId);
            AddMsix(definition.MsixVectors);
        }
    }

    /// <summary>Bytes of each BAR; 0 where there is none.</summary>
    public ulong[] Bars { get; }

    /// <summary>BAR of the MSI-X table, or -1.</summary>
    public int MsixBar { get; private set; } = -1;

    /// <summary>MSI-X Enable.</summary>
    public bool MsixEnabled => MsixBar >= 0 && (_bytes.Get16(Msix + 2) & MsixEnable) != 0;

    /// <summary>MSI Enable.</summary>
    public bool MsiEnabled => _bytes.Values[Msi] == MsiId && (_bytes.Get16(Msi + 2) & MsiEnable) != 0;

    /// <summary>Vectors that the guest uses, a power of two: a device with more shares them (6.8.1.3, Multiple Message Enable).</summary>
    public int MsiGranted => 1 << Math.Min((_bytes.Get16(Msi + 2) >> 4) & 7, 5);

    /// <summary>Interrupt Disable of the pin.</summary>
    public bool PinDisabled => (_bytes.Get16(Command) & InterruptDisable) != 0;

    /// <summary>Back to power-on state.</summary>
    public void Reset() => _bytes.Reset();

    /// <summary>Reads. <paramref name="pinAsserted"/> is what Interrupt Status shows.</summary>
    public void Read(int offset, Span<byte> destination, bool pinAsserted) => _bytes.Read(offset, destination, pinAsserted);

    /// <summary>Writes what is writable.</summary>
    public void Write(int offset, ReadOnlySpan<byte> data) => _bytes.Write(offset, data);

    /// <summary>All of it, for migration.</summary>
    public ReadOnlySpan<byte> Values => _bytes.Values;

    /// <summary>Whether <paramref name="values"/>, <see cref="Size"/> bytes, differ from this function's in writable bits only.</summary>
    public bool Accepts(ReadOnlySpan<byte> values) => _bytes.Accepts(values);

    /// <summary>Takes over accepted values.</summary>
    public void Restore(ReadOnlySpan<byte> values) => _bytes.Restore(values);

    private void AddBar(PciBar bar)
    {
        if (bar.Index is < 0 or >= BarCount || (bar.Is64Bit && bar.Index == BarCount - 1))
            throw new ArgumentException($"There is no place for BAR {bar.Index}.");
        if (!ulong.IsPow2(bar.Size) || bar.Size < 16 || (!bar.Is64Bit && bar.Size > 1UL << 31))
            throw new ArgumentException($"BAR {bar.Index} has 0x{bar.Size:x} bytes; a power of two from 16 is needed, below 4 GiB unless it is 64-bit.");
        if (!IsFree(bar.Index) || (bar.Is64Bit && !IsFree(bar.Index + 1)))
            throw new ArgumentException($"BAR {bar.Index} is there already.");
        Bars[bar.Index] = bar.Size;
        ulong writable = ~(bar.Size - 1);
        int at = Bar0 + bar.Index * 4;
        // 6.2.5.1: bits 2:1 say 64-bit, bit 3 prefetchable.
        _bytes.Define32(at, (bar.Is64Bit ? 4u : 0) | (bar.Prefetchable ? 8u : 0), (uint)writable);
        if (bar.Is64Bit)
            _bytes.Define32(at + 4, 0, (uint)(writable >> 32));
    }

    private bool IsFree(int index) =>
        Bars[index] == 0 && (index == 0 || Bars[index - 1] == 0 || (_bytes.Values[Bar0 + (index - 1) * 4] & 4) == 0);

    private void AddMsix(int vectors)
    {
        int bar = BarCount - 1;
        while (bar >= 0 && !IsFree(bar))
            bar--;
        if (bar < 0)
            throw new ArgumentException("No BAR is left for the MSI-X table.");
        // Table first, pending bits in the next page: a client may then protect each by itself (6.8.2).
        uint table = BitOperations.RoundUpToPowerOf2((uint)Math.Max(vectors * MsixEntrySize, 4096));
        AddBar(new PciBar(bar, 2 * table));
        _bytes.Define16(Msix + 2, (ushort)(vectors - 1), writable: 0xC000);
        _bytes.Define32(Msix + 4, (uint)bar);
        _bytes.Define32(Msix + 8, table | (uint)bar);
        MsixBar = bar;
    }

    private int Link(int pointer, int capability, byte id)
    {
        _bytes.Define8(pointer, (byte)capability);
        _bytes.Define8(capability, id);
        _bytes.Define16(Status, 0x0010); // capabilities list
        return capability + 1;
    }
}
