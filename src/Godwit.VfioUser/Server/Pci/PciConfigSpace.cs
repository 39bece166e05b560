using System.Buffers.Binary;
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
    private const ushort InterruptStatus = 1 << 3;
    private const ushort InterruptDisable = 1 << 10;

    private readonly byte[] _initial = new byte[Size];
    private readonly byte[] _mask = new byte[Size];
    private readonly byte[] _values = new byte[Size];

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

        Put16(0x00, definition.VendorId);
        Put16(0x02, definition.DeviceId);
        Put16(Command, 0, writable: 0x0547); // I/O, memory, bus master, parity, SERR#, interrupt disable
        Put32(0x08, (definition.ClassCode << 8) | definition.Revision);
        Put8(0x0C, 0, writable: 0xFF); // cache line size
        Put16(0x2C, definition.SubsystemVendorId);
        Put16(0x2E, definition.SubsystemId);
        Put8(0x3C, 0, writable: 0xFF); // interrupt line
        Put8(0x3D, (byte)(definition.HasPin ? 1 : 0));

        Bars = new ulong[BarCount];
        foreach (PciBar bar in definition.Bars)
            AddBar(bar);
        int next = CapabilityPointer;
        if (definition.MsiVectors != 0)
        {
            next = Link(next, Msi, MsiId);
            // 6.8.1: 64-bit address, no masking of single vectors; the guest chooses how many of the vectors it uses.
            Put16(Msi + 2, (ushort)(0x80 | (BitOperations.Log2((uint)definition.MsiVectors) << 1)), writable: 0x71);
            Put32(Msi + 4, 0, writable: 0xFFFF_FFFC);
            Put32(Msi + 8, 0, writable: 0xFFFF_FFFF);
            Put16(Msi + 12, 0, writable: 0xFFFF);
        }
        if (definition.MsixVectors != 0)
        {
            Link(next, Msix, MsixId);
            AddMsix(definition.MsixVectors);
        }
        Reset();
    }

    /// <summary>Bytes of each BAR; 0 where there is none.</summary>
    public ulong[] Bars { get; }

    /// <summary>BAR of the MSI-X table, or -1.</summary>
    public int MsixBar { get; private set; } = -1;

    /// <summary>MSI-X Enable.</summary>
    public bool MsixEnabled => MsixBar >= 0 && (Get16(Msix + 2) & MsixEnable) != 0;

    /// <summary>MSI Enable.</summary>
    public bool MsiEnabled => _initial[Msi] == MsiId && (Get16(Msi + 2) & MsiEnable) != 0;

    /// <summary>Vectors that the guest uses, a power of two: a device with more shares them (6.8.1.3, Multiple Message Enable).</summary>
    public int MsiGranted => 1 << Math.Min((Get16(Msi + 2) >> 4) & 7, 5);

    /// <summary>Interrupt Disable of the pin.</summary>
    public bool PinDisabled => (Get16(Command) & InterruptDisable) != 0;

    /// <summary>Back to power-on state.</summary>
    public void Reset() => _initial.CopyTo(_values, 0);

    /// <summary>Reads inside <see cref="Size"/>. <paramref name="pinAsserted"/> is what Interrupt Status shows.</summary>
    public void Read(int offset, Span<byte> destination, bool pinAsserted)
    {
        _values.AsSpan(offset, destination.Length).CopyTo(destination);
        if (pinAsserted && offset <= Status && Status < offset + destination.Length)
            destination[Status - offset] |= (byte)InterruptStatus;
    }

    /// <summary>Writes what is writable.</summary>
    public void Write(int offset, ReadOnlySpan<byte> data)
    {
        for (int i = 0; i < data.Length; i++)
        {
            ref byte value = ref _values[offset + i];
            byte mask = _mask[offset + i];
            value = (byte)((value & ~mask) | (data[i] & mask));
        }
    }

    /// <summary>All of it, for migration.</summary>
    public ReadOnlySpan<byte> Values => _values;

    /// <summary>Whether <paramref name="values"/>, <see cref="Size"/> bytes, differ from this function's in writable bits only.</summary>
    public bool Accepts(ReadOnlySpan<byte> values)
    {
        for (int i = 0; i < Size; i++)
        {
            if (((values[i] ^ _initial[i]) & ~_mask[i]) != 0)
                return false;
        }
        return true;
    }

    /// <summary>Takes over accepted values.</summary>
    public void Restore(ReadOnlySpan<byte> values) => values.CopyTo(_values);

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
        Put32(at, (bar.Is64Bit ? 4u : 0) | (bar.Prefetchable ? 8u : 0), (uint)writable);
        if (bar.Is64Bit)
            Put32(at + 4, 0, (uint)(writable >> 32));
    }

    private bool IsFree(int index) =>
        Bars[index] == 0 && (index == 0 || Bars[index - 1] == 0 || (_initial[Bar0 + (index - 1) * 4] & 4) == 0);

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
        Put16(Msix + 2, (ushort)(vectors - 1), writable: 0xC000);
        Put32(Msix + 4, (uint)bar);
        Put32(Msix + 8, table | (uint)bar);
        MsixBar = bar;
    }

    private int Link(int pointer, int capability, byte id)
    {
        Put8(pointer, (byte)capability);
        Put8(capability, id);
        Put16(Status, 0x0010); // capabilities list
        return capability + 1;
    }

    private ushort Get16(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_values.AsSpan(offset));

    private void Put8(int offset, byte value, byte writable = 0)
    {
        _initial[offset] = value;
        _mask[offset] = writable;
    }

    private void Put16(int offset, ushort value, ushort writable = 0)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_initial.AsSpan(offset), value);
        BinaryPrimitives.WriteUInt16LittleEndian(_mask.AsSpan(offset), writable);
    }

    private void Put32(int offset, uint value, uint writable = 0)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_initial.AsSpan(offset), value);
        BinaryPrimitives.WriteUInt32LittleEndian(_mask.AsSpan(offset), writable);
    }
}
