using System.Buffers;
using System.Buffers.Binary;
using Godwit.Memory;

namespace Godwit.Machine;

/// <summary>
/// An I/O APIC with 24 pins (Intel 82093AA datasheet) and an EOI register: pins become messages, which pass the vIOMMU's interrupt remapping
/// as those of a device do. Any thread.
/// </summary>
/// <param name="send">Sends a message: address and data. Called without a lock of its own held, but with those of whoever drives a pin: it must not lead back to them.</param>
/// <param name="ended">
/// Told a level-triggered pin whose interrupt a CPU has handled, before it may send again: whoever drives it looks whether he still wants to. Called without
/// a lock held.
/// </param>
internal sealed class IoApic(Action<ulong, uint> send, Action<int>? ended = null) : IMmioHandler
{
    public const int Pins = 24;
    public const byte Id = 0;
    /// <summary>The id under which it is known to interrupt remapping: no PCI function, but a place that none can have (VT-d 8.3.1).</summary>
    public const ushort RequesterId = 0xFF00;

    private const int StateSize = (Pins + 2) * sizeof(ulong);
    private const ulong SelectOffset = 0x00;     // IOREGSEL, 3.1.1
    private const ulong WindowOffset = 0x10;     // IOWIN, 3.1.2
    private const ulong EndOffset = 0x40;        // EOI, of version 20h
    private const uint IdRegister = 0;
    private const uint VersionRegister = 1;
    private const uint FirstEntryRegister = 0x10;
    private const uint Version = 0x20 | ((Pins - 1) << 16);

    private readonly Lock _lock = new();
    private readonly RedirectionEntry[] _entries = [.. Enumerable.Repeat(RedirectionEntry.Reset, Pins)];
    private uint _asserted;
    private uint _select;

    /// <summary>Drives a pin. An edge-triggered one sends when it rises, a level-triggered one while it is high and its last end has been told.</summary>
    public void Set(int pin, bool high)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)pin, (uint)Pins, nameof(pin));
        RedirectionEntry? sent;
        lock (_lock)
        {
            bool rises = high && (_asserted & (1u << pin)) == 0;
            _asserted = high ? _asserted | (1u << pin) : _asserted & ~(1u << pin);
            sent = _entries[pin] is { IsLevel: false, IsMasked: false } edge ? (rises ? edge : null) : TakeLevel(pin);
        }

        Send(sent);
    }

    public ulong Read(ulong offset, int size, in TransactionAttributes attributes)
    {
        lock (_lock)
        {
            return offset switch
            {
                SelectOffset => _select,
                WindowOffset => ReadRegister(),
                _ => 0,
            };
        }
    }

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        if (attributes.RequesterId is not null)
            return; // a processor's registers; a device's write into them could be its own interrupt
        switch (offset)
        {
            case SelectOffset:
                lock (_lock)
                    _select = (byte)value;
                break;
            case WindowOffset:
                WriteRegister((uint)value);
                break;
            case EndOffset:
                End((byte)value);
                break;
        }
    }

    public void Save(IBufferWriter<byte> writer)
    {
        Span<byte> state = writer.GetSpan(StateSize)[..StateSize];
        lock (_lock)
        {
            for (int pin = 0; pin < Pins; pin++)
                BinaryPrimitives.WriteUInt64LittleEndian(state[(pin * 8)..], _entries[pin].Value);
            BinaryPrimitives.WriteUInt64LittleEndian(state[(Pins * 8)..], _asserted);
            BinaryPrimitives.WriteUInt64LittleEndian(state[((Pins + 1) * 8)..], _select);
        }

        writer.Advance(StateSize);
    }

    /// <summary>Takes a saved state over.</summary>
    /// <exception cref="InvalidDataException">It cannot be one.</exception>
    public void Load(ReadOnlySpan<byte> state)
    {
        if (state.Length != StateSize)
            throw new InvalidDataException($"I/O APIC state has {state.Length} bytes; it must have {StateSize}.");
        ulong asserted = BinaryPrimitives.ReadUInt64LittleEndian(state[(Pins * 8)..]);
        ulong select = BinaryPrimitives.ReadUInt64LittleEndian(state[((Pins + 1) * 8)..]);
        if (asserted >> Pins != 0 || select > byte.MaxValue)
            throw new InvalidDataException($"I/O APIC state has pins 0x{asserted:x} and register {select}; there are {Pins} pins and 256 registers.");
        lock (_lock)
        {
            for (int pin = 0; pin < Pins; pin++)
            {
                ulong value = BinaryPrimitives.ReadUInt64LittleEndian(state[(pin * 8)..]);
                if (!RedirectionEntry.IsPossible(value))
                    throw new InvalidDataException($"I/O APIC state has entry {pin} 0x{value:x}, which has bits that do not exist.");
                _entries[pin] = new RedirectionEntry(value);
            }

            _asserted = (uint)asserted;
            _select = (uint)select;
        }
    }

    private ulong ReadRegister() => _select switch
    {
        IdRegister => Id << 24,
        VersionRegister => Version,
        >= FirstEntryRegister and < FirstEntryRegister + (2 * Pins) =>
            (uint)(_entries[(_select - FirstEntryRegister) / 2].Value >> (_select % 2 == 0 ? 0 : 32)),
        _ => 0,
    };

    private void WriteRegister(uint value)
    {
        RedirectionEntry? sent = null;
        lock (_lock)
        {
            if (_select is >= FirstEntryRegister and < FirstEntryRegister + (2 * Pins))
            {
                var pin = (int)(_select - FirstEntryRegister) / 2;
                ulong old = _entries[pin].Value;
                _entries[pin] = _entries[pin].Write(
                    _select % 2 == 0 ? (old & 0xFFFF_FFFF_0000_0000) | value : (uint)old | ((ulong)value << 32));
                sent = TakeLevel(pin);
            }
        }

        Send(sent);
    }

    /// <summary>The CPU has handled the interrupt: level-triggered entries with that vector may send again.</summary>
    private void End(byte vector)
    {
        for (int pin = 0; pin < Pins; pin++)
        {
            lock (_lock)
            {
                if (_entries[pin] is not { AwaitsEnd: true } entry || entry.Vector != vector)
                    continue;
            }

            // It still awaits its end, so what is told now sends nothing.
            ended?.Invoke(pin);
            RedirectionEntry? sent;
            lock (_lock)
            {
                if (_entries[pin] is not { AwaitsEnd: true } entry || entry.Vector != vector)
                    continue; // another CPU's end came first
                _entries[pin] = entry.WithAwaitsEnd(false);
                sent = TakeLevel(pin);
            }

            Send(sent);
        }
    }

    /// <summary>The entry of a level-triggered pin that is to be sent now, noted as sent. Under the lock.</summary>
    private RedirectionEntry? TakeLevel(int pin)
    {
        RedirectionEntry entry = _entries[pin];
        if (entry.IsMasked || !entry.IsLevel || entry.AwaitsEnd || (_asserted & (1u << pin)) == 0)
            return null;
        _entries[pin] = entry.WithAwaitsEnd(true);
        return entry;
    }

    private void Send(RedirectionEntry? entry)
    {
        if (entry is { } sent)
            send(sent.Address, sent.Data);
    }
}
