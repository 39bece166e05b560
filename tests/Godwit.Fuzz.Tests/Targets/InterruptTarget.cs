using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Fuzz.Tests;

/// <summary>
/// A guest that programs interrupt remapping at random, as a driver does: it changes entries and invalidates them, and its devices send any
/// message. What is delivered, or why not, must be what the specification says of the entry: it is written down here a second time, plainly.
/// </summary>
public sealed class InterruptTarget : IFuzzTarget
{
    private const ulong Table = 0x1_0000;
    private const ulong Queue = 0x8000;
    private const int Entries = 256;
    private const byte SetEntry = 0, Send = 1, Switch = 2, Point = 3;
    private const ulong Extended = 1 << 11;
    private const uint QueueOn = 1u << 26, RemappingOn = 1u << 25, CompatibilityOn = 1u << 23;

    /// <inheritdoc/>
    public static string Name => "interrupt-remapping";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        yield return new InputBuilder()
            .Op(Point, Extended).Op(Switch, 1)
            .Op(SetEntry, 5, 1 | (0x41 << 16) | (300UL << 32), 0x18 | (1 << 18)).Op(Send, 0x18, Remappable(5), 0).Op(Send, 0x19, Remappable(5), 0)
            .Op(SetEntry, 5, 1 | (0x42 << 16) | (1UL << 32), 0).Op(Send, 0x18, Remappable(5), 0)
            .Op(Send, 0x18, Remappable(255), 0).Op(Send, 0x18, Remappable(256), 0).Op(Send, 0x18, 0x1000, 0x41)
            .Build();
        yield return new InputBuilder()
            .Op(Point, 0).Op(Switch, 3)
            .Op(SetEntry, 7, 1 | (0x51 << 16) | (3UL << 40), 0x0A0F | (2 << 18)).Op(Send, 0x0B08, Remappable(7), 0).Op(Send, 0x1008, Remappable(7), 0)
            .Op(Send, 0x18, 0x2000, 0x141).Op(Send, 0x18, Remappable(0) | 8, 7).Op(Send, 0x18, Remappable(0) | 8, 0x1_0007)
            .Op(Switch, 0).Op(Send, 0x18, Remappable(7), 0x55)
            .Build();
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input)
    {
        using var guest = new Guest();
        var reader = new InputReader(input);
        for (int steps = 0; steps < 400 && !reader.AtEnd; steps++)
        {
            switch (reader.Byte() % 4)
            {
                case SetEntry:
                    guest.SetEntry((int)(reader.UInt64() % Entries), reader.UInt64(), reader.UInt64());
                    break;
                case Send:
                    guest.Send((ushort)reader.UInt64(), (uint)reader.UInt64() & 0xF_FFFC, (uint)reader.UInt64());
                    break;
                case Switch:
                    ulong switches = reader.UInt64();
                    guest.Switch((switches & 1) != 0, (switches & 2) != 0);
                    break;
                default:
                    guest.PointAtTable((reader.UInt64() & Extended) != 0);
                    break;
            }
        }
    }

    private static ulong Remappable(uint index) => ((index & 0x7FFF) << 5) | 0x10;

    private sealed class Guest : IInterruptSink, IDisposable
    {
        private readonly MemoryTopology _topology = new();
        private readonly GuestRam _ram = new();
        private readonly IntelIommu _unit;
        private readonly (ulong Low, ulong High)[] _entries = new (ulong, ulong)[Entries];
        private readonly List<InterruptMessage> _delivered = [];
        private ulong _tail;
        private bool _extended, _pointed, _on, _compatible;

        public Guest()
        {
            _topology.Add(_topology.SystemRoot, default, new RamRegion("ram", _ram.Add("ram", RamBlock.SizeUnit)));
            _unit = new IntelIommu(_topology, new IntelIommuOptions { InterruptRemapping = true, ExtendedInterruptMode = true });
            Register64(0x90, Queue);
            Command(QueueOn);
        }

        public void Dispose() => _ram.Dispose();

        void IInterruptSink.Deliver(in InterruptMessage message) => _delivered.Add(message);

        public void SetEntry(int index, ulong low, ulong high)
        {
            _entries[index] = (low, high);
            Ram64(Table + ((ulong)index * 16) + 8, high);
            Ram64(Table + ((ulong)index * 16), low);
            Ram64(Queue + _tail, 4 | (1 << 4) | ((ulong)index << 32));
            Ram64(Queue + _tail + 8, 0);
            _tail = (_tail + 16) % 4096;
            Register64(0x88, _tail);
        }

        public void PointAtTable(bool extended)
        {
            Register64(0xB8, Table | (extended ? Extended : 0) | 7);
            Command(Switches | (1u << 24));
            (_extended, _pointed) = (extended, true);
        }

        public void Switch(bool on, bool compatible)
        {
            (_on, _compatible) = (on, compatible);
            Command(Switches);
        }

        public void Send(ushort requester, uint offset, uint data)
        {
            _delivered.Clear();
            _unit.Interrupts!.Deliver(requester, 0xFEE0_0000 | offset, data, this);
            int reason = TakeFault(out ushort source);
            (InterruptMessage? message, int expected, bool silent) = Expect(requester, 0xFEE0_0000 | offset, data);
            Assert.Equal(message is null ? [] : [message.Value], _delivered);
            Assert.Equal(silent ? 0 : expected, reason);
            if (reason != 0)
                Assert.Equal(requester, source);
        }

        private uint Switches => QueueOn | (_on ? RemappingOn : 0) | (_compatible ? CompatibilityOn : 0);

        /// <summary>VT-d 5.1.2 to 5.1.4, 9.9: the message, or the reason why there is none and whether FPD keeps it from being recorded.</summary>
        private (InterruptMessage? Message, int Reason, bool Silent) Expect(ushort requester, uint address, uint data)
        {
            bool remappable = (address & 0x10) != 0;
            if (!_on || (!remappable && _compatible && !(_extended && _pointed)))
                return (InterruptMessage.FromCompatibility(address, data), 0, false);
            if (!remappable)
                return (null, 0x25, false);
            bool sub = (address & 8) != 0;
            if (sub && data > 0xFFFF)
                return (null, 0x20, false);
            long index = ((address >> 5) & 0x7FFF) + ((address & 4) != 0 ? 0x8000 : 0) + (sub ? data & 0xFFFF : 0);
            if (index >= (_pointed ? Entries : 0))
                return (null, 0x21, false);
            (ulong low, ulong high) = _entries[index];
            bool silent = (low & 2) != 0;
            if ((low & 1) == 0)
                return (null, 0x22, silent);
            ulong mode = (low >> 5) & 7, validation = (high >> 18) & 3;
            bool reserved = (low & 0xFF00_F000) != 0 || (!_extended && (low & 0xFFFF_00FF_0000_0000) != 0) || high >> 20 != 0
                || mode is 3 or 6 || validation == 3;
            int ignored = ((int)(high >> 16) & 3) switch { 0 => 0, 1 => 4, 2 => 6, _ => 7 };
            bool accepted = validation switch
            {
                0 => true,
                1 => (requester & ~ignored) == ((int)(high & 0xFFFF) & ~ignored),
                _ => requester >> 8 >= (int)(high >> 8 & 0xFF) && requester >> 8 <= (int)(high & 0xFF),
            };
            if (validation != 3 && !accepted)
                return (null, 0x26, silent);
            uint destination = _extended ? (uint)(low >> 32) : (uint)(low >> 40) & 0xFF;
            return !reserved
                ? (new InterruptMessage(destination, _extended, (low & 4) != 0, (low & 8) != 0, (int)mode, (byte)(low >> 16), (low & 0x10) != 0), 0, false)
                : (null, 0x24, silent);
        }

        /// <summary>The reason in the record that was written, 0 for none; all records are free afterwards.</summary>
        private int TakeFault(out ushort source)
        {
            source = 0;
            _topology.System.ReadUInt32(At(0x34), out uint status, TransactionAttributes.Vcpu);
            if ((status & 2) == 0)
                return 0;
            ulong record = 0x220 + ((status >> 8 & 0xFF) * 16);
            _topology.System.ReadUInt64(At(record + 8), out ulong high, TransactionAttributes.Vcpu);
            Register64(record + 8, 1UL << 63);
            source = (ushort)high;
            return (int)(high >> 32) & 0xFF;
        }

        private void Command(uint bits) => _topology.System.WriteUInt32(At(0x18), bits, TransactionAttributes.Vcpu);

        private void Register64(ulong offset, ulong value) => _topology.System.WriteUInt64(At(offset), value, TransactionAttributes.Vcpu);

        private void Ram64(ulong address, ulong value) => _topology.System.WriteUInt64(new BusAddress(address), value, TransactionAttributes.Vcpu);

        private static BusAddress At(ulong offset) => BusAddress.FromGpa(IntelIommu.RegisterBase + offset);
    }
}
