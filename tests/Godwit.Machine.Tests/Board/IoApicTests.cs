using System.Buffers;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

/// <summary>Pins, registers and the messages that come of them.</summary>
public sealed class IoApicTests
{
    private const ulong Level = 1 << 15, Mask = 1 << 16, Remappable = 1UL << 48, Logical = 1 << 11;

    private readonly List<(ulong Address, uint Data)> _sent = [];
    private readonly IoApic _apic;

    public IoApicTests() => _apic = new IoApic((address, data) => _sent.Add((address, data)));

    [Theory]
    [InlineData(0x41UL | (5UL << 56), 0xFEE0_5000UL, 0x4041u)]                                     // fixed, physical
    [InlineData(0x41UL | (1 << 8) | Logical | (3UL << 56), 0xFEE0_300CUL, 0x4141u)]                // lowest priority, logical
    [InlineData(0x52UL | Remappable | (0x0123UL << 49), 0xFEE0_0010UL | (0x0123 << 5), 0x4052u)]   // index 0x123
    [InlineData(0x52UL | Remappable | (0x7FFFUL << 49) | Logical, 0xFEE0_0014UL | (0x7FFF << 5), 0x4052u)] // index 0xFFFF
    public void An_entry_makes_its_message(ulong entry, ulong address, uint data)
    {
        Program(3, entry);
        _apic.Set(3, high: true);
        Assert.Equal((address, data), Assert.Single(_sent));
    }

    [Fact]
    public void An_edge_sends_when_it_rises_and_not_while_masked()
    {
        Program(4, 0x41 | Mask);
        _apic.Set(4, true);
        Program(4, 0x41); // the edge was while it was masked: lost
        _apic.Set(4, true);
        Assert.Empty(_sent);
        _apic.Set(4, false);
        _apic.Set(4, true);
        _apic.Set(4, true);
        Assert.Single(_sent);
    }

    [Fact]
    public void Who_drives_a_level_is_asked_at_its_end_before_it_is_sent_again()
    {
        var sent = new List<uint>();
        IoApic? apic = null;
        var ended = new List<int>();
        bool stillWanted = true;
        apic = new IoApic((_, data) => sent.Add(data), pin =>
        {
            ended.Add(pin);
            apic!.Set(pin, false); // as a device whose interrupt may have been served
            if (stillWanted)
                apic.Set(pin, true);
            Assert.Equal(ended.Count, sent.Count); // nothing is sent from in here
        });
        apic.Write(0, 0x10 + (2 * 18), 4, TransactionAttributes.Vcpu);
        apic.Write(0x10, 0x41 | Level, 4, TransactionAttributes.Vcpu);
        apic.Set(18, true);
        apic.Write(0x40, 0x42, 4, TransactionAttributes.Vcpu); // another's
        Assert.Empty(ended);
        apic.Write(0x40, 0x41, 4, TransactionAttributes.Vcpu);
        Assert.Equal(2, sent.Count);
        stillWanted = false;
        apic.Write(0x40, 0x41, 4, TransactionAttributes.Vcpu);
        Assert.Equal(2, sent.Count);
        Assert.Equal([18, 18], ended);
    }

    [Fact]
    public void A_level_is_sent_again_after_its_end_while_it_is_high()
    {
        Program(9, 0x61 | Level | Mask);
        _apic.Set(9, true);
        Assert.Empty(_sent);
        Program(9, 0x61 | Level);
        Assert.Single(_sent);
        _apic.Set(9, true);
        Program(9, 0x61 | Level);
        Assert.Single(_sent);
        Assert.NotEqual(0u, Entry(9) & (1 << 14));
        _apic.Write(0x40, 0x62, 4, TransactionAttributes.Vcpu); // another vector
        Assert.Single(_sent);
        _apic.Write(0x40, 0x61, 4, TransactionAttributes.Vcpu);
        Assert.Equal(2, _sent.Count);
        _apic.Set(9, false);
        _apic.Write(0x40, 0x61, 4, TransactionAttributes.Vcpu);
        Assert.Equal(2, _sent.Count);
        Assert.Equal(0u, Entry(9) & (1 << 14));
    }

    [Fact]
    public void Registers_read_what_exists_and_devices_write_nothing()
    {
        Assert.Equal(0x0017_0020u, Register(1));
        Assert.Equal(0x1_0000u, Register(0x10));
        Program(0, ulong.MaxValue);
        Assert.Equal(0x0001_AFFFu, Register(0x10));
        Assert.Equal(0xFFFF_0000u, Register(0x11));
        Assert.Equal(0u, Register(0x40));
        Assert.Equal(0u, Register(0xFF));
        _apic.Write(0, 0x10, 4, new TransactionAttributes(DirtySource.Device, 0x18));
        _apic.Write(0x10, 0, 4, new TransactionAttributes(DirtySource.Device, 0x18));
        Assert.Equal(0x0001_AFFFu, Register(0x10));
    }

    [Fact]
    public void Its_state_moves_and_what_cannot_be_is_refused()
    {
        Program(9, 0x61 | Level);
        _apic.Set(9, true);
        var state = new ArrayBufferWriter<byte>();
        _apic.Save(state);
        var sent = new List<(ulong, uint)>();
        var other = new IoApic((address, data) => sent.Add((address, data)));
        other.Load(state.WrittenSpan);
        Assert.Empty(sent);
        other.Write(0x40, 0x61, 4, TransactionAttributes.Vcpu);
        Assert.Single(sent);

        Assert.Throws<InvalidDataException>(() => other.Load(state.WrittenSpan[1..]));
        foreach (int at in (int[])[2, (24 * 8) + 3, (25 * 8) + 1]) // an entry, the pins, the selected register
        {
            byte[] bad = state.WrittenSpan.ToArray();
            bad[at] |= 0x80;
            Assert.Throws<InvalidDataException>(() => other.Load(bad));
        }
    }

    [Fact]
    public void The_button_interrupts_when_it_is_listened_to_and_only_a_CPU_switches_off()
    {
        var pin = new List<bool>();
        int off = 0;
        var power = new PowerManagement(pin.Add, () => off++);
        power.PressButton();
        Assert.Equal([false], pin);
        power.Write(2, 0x100, 2, TransactionAttributes.Vcpu);
        Assert.Equal([false, true], pin);
        power.Write(0, 0x100, 2, TransactionAttributes.Vcpu);
        Assert.Equal([false, true, false], pin);
        Assert.Equal(0UL, power.Read(0, 2, TransactionAttributes.Vcpu));

        power.Write(4, 1 << 13, 2, TransactionAttributes.Vcpu);      // no sleep type
        power.Write(4, 5 << 10, 2, TransactionAttributes.Vcpu);      // not enabled
        power.Write(4, (1 << 13) | (5 << 10), 2, new TransactionAttributes(DirtySource.Device, 0x18));
        Assert.Equal(0, off);
        power.Write(4, (1 << 13) | (5 << 10), 2, TransactionAttributes.Vcpu);
        Assert.Equal(1, off);
    }

    private void Program(int pin, ulong entry)
    {
        Select(0x11 + (2 * pin));
        _apic.Write(0x10, entry >> 32, 4, TransactionAttributes.Vcpu);
        Select(0x10 + (2 * pin));
        _apic.Write(0x10, (uint)entry, 4, TransactionAttributes.Vcpu);
    }

    private uint Entry(int pin) => Register(0x10 + (2 * pin));

    private uint Register(int number)
    {
        Select(number);
        return (uint)_apic.Read(0x10, 4, TransactionAttributes.Vcpu);
    }

    private void Select(int register) => _apic.Write(0, (ulong)register, 4, TransactionAttributes.Vcpu);
}
