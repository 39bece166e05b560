using System.Buffers;
using System.Buffers.Binary;
using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

// What migrates: registers, what was latched from them, and where fault recording stands. Caches and records of announcements are rebuilt.
public sealed partial class IntelIommu
{
    /// <summary>
    /// RTADDR and IRTA as latched, the queue as latched (<see cref="LatchedQueue.Word"/>), the next fault record, what of GCMD is still to be done
    /// with <see cref="CommandPending"/>.
    /// </summary>
    private const int LatchedWords = 5;

    private const ulong CommandPending = 1UL << 32;

    /// <summary>Version of the state that <see cref="SaveState"/> writes, its first word.</summary>
    public static int StateVersion => 3;

    private int StateLength => (1 + _registers.Values.Length + LatchedWords) * sizeof(ulong);

    /// <summary>
    /// Saves registers, latched tables, queue state, and what was commanded and is not done, which is begun anew where it is loaded: ICC and IVT are
    /// set, and IQH stands before the descriptor. The vCPUs are stopped, and the unit is paused.
    /// </summary>
    public void SaveState(IBufferWriter<byte> writer)
    {
        ArgumentNullException.ThrowIfNull(writer);
        using (EnterCommand())
        {
            _failure?.Throw();
            Span<byte> span = writer.GetSpan(StateLength)[..StateLength];
            lock (_registerLock)
            {
                Put(ref span, (ulong)StateVersion);
                foreach (ulong value in _registers.Values)
                    Put(ref span, value);
                Put(ref span, _rootPointer);
                Put(ref span, _interruptTable);
                Put(ref span, _queue.Word);
                Put(ref span, (ulong)_faults.Next);
                Put(ref span, UnfinishedGlobalCommand is { } command ? CommandPending | command : 0);
            }

            writer.Advance(StateLength);
        }
    }

    /// <summary>
    /// Loads them, then re-switches every device's space, which rebuilds and announces its mappings from the tables in guest RAM. What the guest had
    /// commanded and is not done waits for <see cref="Resume"/>, or for a vCPU that writes a register.
    /// RAM and bridge numbers must have been loaded before. Everything in the state is checked: it comes over the wire.
    /// </summary>
    /// <exception cref="InvalidDataException">Not a state of such a unit: what differs is named, and nothing was changed.</exception>
    public void LoadState(ReadOnlySpan<byte> state)
    {
        if (state.Length != StateLength)
            throw new InvalidDataException($"VT-d state has {state.Length} bytes, expected {StateLength}");
        ulong version = Take(ref state);
        if (version != (ulong)StateVersion)
            throw new InvalidDataException($"VT-d state has version {version}, this program knows {StateVersion}");
        ulong[] values = new ulong[_registers.Values.Length];
        foreach (ref ulong value in values.AsSpan())
            value = Take(ref state);
        ulong root = Take(ref state);
        ulong interrupts = Take(ref state);
        ulong queueWord = Take(ref state);
        ulong next = Take(ref state);
        ulong command = Take(ref state);
        LatchedQueue queue = Check(values, root, interrupts, queueWord, next, command);
        Command(new LoadedState(values, root, interrupts, queue, (int)next, command), static (unit, loaded) => unit.Load(loaded));
    }

    private void Load(in LoadedState state)
    {
        ForgetWork();
        _awaitsGuest = true; // what is done before would be done to memory that is still being loaded
        lock (_registerLock)
        {
            _registers.Load(state.Registers);
            _faults.Next = state.NextFault;
            _interruptTable = state.InterruptTable;
        }

        Volatile.Write(ref _rootPointer, state.RootPointer);
        _queue = state.Queue;
        _translationEnabled = (ReadRegister32(RegisterOffsets.GlobalStatus) & GlobalCommandBits.TranslationEnable) != 0;
        Reevaluate(_ => true, alsoUnchanged: true);
        FinishPlan();
        _globalCommand = (state.Command & CommandPending) != 0 ? (uint)state.Command : null;
        ShowPointers();
        RequestContextCommand();
        RequestIotlbCommand();
        ConfigureInterrupts();
        _interrupts?.InvalidateEntries(0, ushort.MaxValue);
    }

    private LatchedQueue Check(ulong[] values, ulong root, ulong interrupts, ulong queueWord, ulong next, ulong command)
    {
        if (_registers.FindImpossible(values) is { } offset)
        {
            throw new InvalidDataException(
                $"VT-d state has {RegisterName(offset)} 0x{values[offset / 8]:x}, this unit has 0x{_registers.Get64(offset):x} and bits differ that never change");
        }

        if ((root & ~RootPointer.Mask) != 0)
            throw new InvalidDataException($"VT-d state has the root table pointer 0x{root:x} with bits below 10");
        if ((interrupts & ~_registers.Writable64(RegisterOffsets.InterruptTable)) != 0)
            throw new InvalidDataException($"VT-d state has the interrupt table pointer 0x{interrupts:x} with bits that this unit does not have");
        if (!LatchedQueue.TryParse(queueWord, Options.DmaTranslation, out LatchedQueue queue))
            throw new InvalidDataException($"VT-d state has the queue 0x{queueWord:x}, which is no address, size and width of one");
        bool enabled = ((uint)(values[RegisterOffsets.GlobalStatus / 8] >> 32) & GlobalCommandBits.QueuedInvalidationEnable) != 0;
        if (enabled != queue.IsOn)
            throw new InvalidDataException($"VT-d state has a queue of {queue.Entries} entries with queued invalidation {(enabled ? "on" : "off")}");
        ulong head = values[RegisterOffsets.QueueHead / 8];
        if (head >> queue.Shift >= Math.Max(queue.Entries, 1) || (head & ((1UL << queue.Shift) - 1)) != 0)
            throw new InvalidDataException($"VT-d state has the queue head at byte {head} of {queue.Entries} entries");
        if (next >= RegisterOffsets.FaultRecordCount)
            throw new InvalidDataException($"VT-d state has next fault record {next} of {RegisterOffsets.FaultRecordCount}");
        if (command >> 33 != 0 || command is > 0 and < CommandPending)
            throw new InvalidDataException($"VT-d state has the unfinished command 0x{command:x}, which is none with bit 32 to say so");
        return queue;
    }

    private static string RegisterName(int offset) => offset switch
    {
        RegisterOffsets.Capability => "CAP",
        RegisterOffsets.ExtendedCapability => "ECAP",
        _ => $"the register at 0x{offset:x3}",
    };

    private static void Put(ref Span<byte> span, ulong value)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(span, value);
        span = span[sizeof(ulong)..];
    }

    private static ulong Take(ref ReadOnlySpan<byte> span)
    {
        ulong value = BinaryPrimitives.ReadUInt64LittleEndian(span);
        span = span[sizeof(ulong)..];
        return value;
    }

    /// <summary>A state that has been checked.</summary>
    private readonly record struct LoadedState(
        ulong[] Registers, ulong RootPointer, ulong InterruptTable, LatchedQueue Queue, int NextFault, ulong Command);
}
