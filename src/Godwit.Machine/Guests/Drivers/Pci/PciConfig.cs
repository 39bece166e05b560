using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>Configuration space of one function through ECAM (PCI Express 5.0, 7.2.2).</summary>
internal readonly ref struct PciConfig(GuestCpu cpu, Gpa ecam, ushort bdf)
{
    // bus in address bits 27:20, device 19:15, function 14:12
    private readonly Gpa _base = ecam + ((ulong)bdf << 12);

    public byte Read8(int offset) => (byte)cpu.Bus.ReadMmio(_base + (ulong)offset, 1);

    public ushort Read16(int offset) => (ushort)cpu.Bus.ReadMmio(_base + (ulong)offset, 2);

    public uint Read32(int offset) => (uint)cpu.Bus.ReadMmio(_base + (ulong)offset, 4);

    public void Write16(int offset, ushort value) => cpu.Bus.WriteMmio(_base + (ulong)offset, value, 2);

    public void Write32(int offset, uint value) => cpu.Bus.WriteMmio(_base + (ulong)offset, value, 4);

    public bool Exists => Read16(PciRegisters.VendorId) != PciRegisters.NoDevice;

    /// <summary>Class, subclass and interface.</summary>
    public uint ClassCode => Read32(PciRegisters.ClassAndRevision) >> 8;

    /// <summary>Offset of a capability, or 0. The list is followed at most 48 links, as many as fit.</summary>
    public int FindCapability(byte id)
    {
        if ((Read16(PciRegisters.Status) & PciRegisters.StatusCapabilityList) == 0)
            return 0;
        int at = Read8(PciRegisters.CapabilityPointer) & ~3;
        for (int links = 0; at >= 0x40 && links < 48; links++)
        {
            ushort header = Read16(at);
            if ((byte)header == id)
                return at;
            at = (header >> 8) & ~3;
        }

        return 0;
    }

    /// <summary>
    /// Sizes all memory BARs and places them from <paramref name="next"/> upwards, each aligned to its size; returns the address of each,
    /// 0 for none (PCI Local Bus 3.0, 6.2.5.1).
    /// </summary>
    /// <exception cref="GuestPanicException">The window is full.</exception>
    public void PlaceBars(ref Gpa next, Gpa end, Span<ulong> addresses)
    {
        ushort command = Read16(PciRegisters.Command);
        Write16(PciRegisters.Command, (ushort)(command & ~(PciRegisters.CommandMemorySpace | PciRegisters.CommandBusMaster)));
        addresses.Clear();
        for (int bar = 0; bar < PciRegisters.Bars; bar++)
        {
            int offset = PciRegisters.Bar0 + (bar * 4);
            uint kind = Read32(offset);
            Write32(offset, uint.MaxValue);
            uint low = Read32(offset);
            if (low == 0 || (kind & PciRegisters.BarIoSpace) != 0)
            {
                Write32(offset, 0);
                continue;
            }

            bool wide = (kind & PciRegisters.BarTypeMask) == PciRegisters.BarType64 && bar + 1 < PciRegisters.Bars;
            ulong mask = (low & PciRegisters.BarMemoryMask) | 0xFFFF_FFFF_0000_0000;
            if (wide)
            {
                Write32(offset + 4, uint.MaxValue);
                mask = (low & PciRegisters.BarMemoryMask) | ((ulong)Read32(offset + 4) << 32);
            }

            ulong size = ~mask + 1;
            ulong address = (next.Value + size - 1) & ~(size - 1);
            if (size == 0 || address < next.Value || address > end.Value || size > end.Value - address)
                throw new GuestPanicException($"BAR {bar} of 0x{size:x} bytes does not fit below {end}");
            Write32(offset, (uint)address);
            if (wide)
                Write32(offset + 4, (uint)(address >> 32));
            addresses[bar] = address;
            next = new Gpa(address + size);
            if (wide)
                bar++;
        }
    }

    /// <summary>Where a memory BAR has been placed; 0 for none.</summary>
    private Gpa BarAddress(int bar)
    {
        if (bar >= PciRegisters.Bars)
            return default;
        uint low = Read32(PciRegisters.Bar0 + (bar * 4));
        bool wide = (low & PciRegisters.BarTypeMask) == PciRegisters.BarType64 && bar + 1 < PciRegisters.Bars;
        return new Gpa((low & PciRegisters.BarMemoryMask) | (wide ? (ulong)Read32(PciRegisters.Bar0 + ((bar + 1) * 4)) << 32 : 0));
    }

    /// <summary>Memory decoding and bus mastering on.</summary>
    public void Enable() => Write16(PciRegisters.Command,
        (ushort)(Read16(PciRegisters.Command) | PciRegisters.CommandMemorySpace | PciRegisters.CommandBusMaster));

    /// <summary>Enables MSI with one message. False: the function has none.</summary>
    public bool EnableMsi(MsiMessage message)
    {
        int capability = FindCapability(PciRegisters.CapabilityMsi);
        if (capability == 0)
            return false;
        ushort control = Read16(capability + PciRegisters.MsiControl);
        int data = capability + PciRegisters.MsiData;
        Write32(capability + PciRegisters.MsiAddress, message.Address);
        if ((control & PciRegisters.MsiControlWide) != 0)
        {
            Write32(capability + PciRegisters.MsiUpperAddress, 0);
            data += 4;
        }

        Write16(data, (ushort)message.Data);
        Write16(capability + PciRegisters.MsiControl, (ushort)((control & ~PciRegisters.MsiControlMultiple) | PciRegisters.MsiControlEnable));
        return true;
    }

    /// <summary>
    /// Enables MSI-X with entry i sending <paramref name="messages"/>[i]. Fewer entries than messages: the last entry serves the rest.
    /// Returns the entries used, 0 without MSI-X.
    /// </summary>
    public int EnableMsix(ReadOnlySpan<MsiMessage> messages)
    {
        int capability = FindCapability(PciRegisters.CapabilityMsix);
        if (capability == 0)
            return 0;
        ushort control = Read16(capability + PciRegisters.MsixControl);
        int entries = Math.Min((control & PciRegisters.MsixControlSizeMask) + 1, messages.Length);
        uint location = Read32(capability + PciRegisters.MsixTable);
        int bir = (int)(location & PciRegisters.MsixBirMask);
        Gpa bar = BarAddress(bir);
        if (bar.Value == 0)
            return 0;

        // Enabled but masked as a whole while the table is written.
        Write16(capability + PciRegisters.MsixControl, (ushort)(control | PciRegisters.MsixControlEnable | PciRegisters.MsixControlMaskAll));
        Gpa table = bar + (location & ~PciRegisters.MsixBirMask);
        for (int i = 0; i < entries; i++)
        {
            Gpa entry = table + (ulong)(i * PciRegisters.MsixEntrySize);
            cpu.WriteMmio32(entry, messages[i].Address);
            cpu.WriteMmio32(entry + 4, 0);
            cpu.WriteMmio32(entry + PciRegisters.MsixEntryData, messages[i].Data);
            cpu.WriteMmio32(entry + PciRegisters.MsixEntryControl, 0);
        }

        Write16(capability + PciRegisters.MsixControl, (ushort)((control | PciRegisters.MsixControlEnable) & ~PciRegisters.MsixControlMaskAll));
        return entries;
    }
}
