using System.Buffers;
using System.Buffers.Binary;
using Godwit.Memory;

namespace Godwit.Machine;

/// <summary>
/// ACPI's fixed hardware for power (ACPI 6.5, 4.8.3): event registers with the power button, whose interrupt (SCI) is a level-triggered pin,
/// and a control register by which the guest switches itself off. Any thread.
/// </summary>
/// <param name="interrupt">Drives the SCI pin.</param>
/// <param name="off">The guest has switched itself off. Called on its vCPU.</param>
internal sealed class PowerManagement(Action<bool> interrupt, Action off) : IMmioHandler
{
    public const ulong Size = 0x1000;
    public const int StatusOffset = 0;           // PM1_STS, 4.8.3.1.1; PM1_EN follows
    public const int ControlOffset = 4;          // PM1_CNT, 4.8.3.2.1

    /// <summary>The pin of the I/O APIC that the SCI is, as on PCs.</summary>
    public const int SciPin = 9;

    private const int EnableOffset = 2;
    private const int StateSize = 3 * sizeof(ushort);
    private const ushort PowerButton = 1 << 8;   // PWRBTN_STS, PWRBTN_EN
    private const ushort SleepEnable = 1 << 13;  // SLP_EN
    private const ushort SleepTypeMask = 7 << 10; // SLP_TYPx
    private const ushort SoftOff = 5 << 10;      // what \_S5 of this board would say

    private readonly Lock _lock = new();
    private ushort _status;
    private ushort _enabled;
    private ushort _control;

    public static MmioAccessRules Rules => new(2, 2, AllowUnaligned: false);

    /// <summary>Presses the power button. Does nothing but set a bit while the guest does not listen.</summary>
    public void PressButton() => Change(() => _status |= PowerButton);

    public ulong Read(ulong offset, int size, in TransactionAttributes attributes)
    {
        lock (_lock)
        {
            return offset switch
            {
                StatusOffset => _status,
                EnableOffset => _enabled,
                ControlOffset => _control,
                _ => 0,
            };
        }
    }

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        if (attributes.RequesterId is not null)
            return; // no device switches a machine off
        switch (offset)
        {
            case StatusOffset:
                Change(() => _status &= (ushort)~value); // write 1 to clear
                break;
            case EnableOffset:
                Change(() => _enabled = (ushort)(value & PowerButton));
                break;
            case ControlOffset:
                lock (_lock)
                    _control = (ushort)(value & SleepTypeMask); // SLP_EN always reads 0
                if ((value & (SleepEnable | SleepTypeMask)) == (SleepEnable | SoftOff))
                    off();
                break;
        }
    }

    public void Save(IBufferWriter<byte> writer)
    {
        Span<byte> state = writer.GetSpan(StateSize)[..StateSize];
        lock (_lock)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(state, _status);
            BinaryPrimitives.WriteUInt16LittleEndian(state[2..], _enabled);
            BinaryPrimitives.WriteUInt16LittleEndian(state[4..], _control);
        }

        writer.Advance(StateSize);
    }

    /// <summary>Takes a saved state over. The pin has been loaded with the I/O APIC.</summary>
    /// <exception cref="InvalidDataException">It cannot be one.</exception>
    public void Load(ReadOnlySpan<byte> state)
    {
        if (state.Length != StateSize)
            throw new InvalidDataException($"Power management state has {state.Length} bytes; it must have {StateSize}.");
        ushort status = BinaryPrimitives.ReadUInt16LittleEndian(state);
        ushort enabled = BinaryPrimitives.ReadUInt16LittleEndian(state[2..]);
        ushort control = BinaryPrimitives.ReadUInt16LittleEndian(state[4..]);
        if (((status | enabled) & ~PowerButton) != 0 || (control & ~SleepTypeMask) != 0)
            throw new InvalidDataException($"Power management state 0x{status:x}, 0x{enabled:x}, 0x{control:x} has bits that do not exist.");
        lock (_lock)
            (_status, _enabled, _control) = (status, enabled, control);
    }

    /// <summary>Changes a register, then the pin. In order: the pin is driven under the lock, and what it reaches takes none that leads here.</summary>
    private void Change(Action change)
    {
        lock (_lock)
        {
            change();
            interrupt((_status & _enabled) != 0);
        }
    }
}
