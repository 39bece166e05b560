using System.Buffers;
using System.Buffers.Binary;
using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

// What migrates: registers, what was latched from them, and where fault recording stands. Caches and records of announcements are rebuilt.
public sealed partial class IntelIommu
{
    /// <summary>The latched root table, the latched queue (base with log2 of its size in 256 entries + 1 in the low bits, 0 when off), the next fault record.</summary>
    private const int LatchedWords = 3;

    /// <summary>Version of the state that <see cref="SaveState"/> writes, its first word.</summary>
    public static int StateVersion => 1;

    private int StateLength => (1 + _registers.Values.Length + LatchedWords) * sizeof(ulong);

    /// <summary>Saves registers, latched tables and queue state. The vCPUs are stopped.</summary>
    public void SaveState(IBufferWriter<byte> writer)
    {
        ArgumentNullException.ThrowIfNull(writer);
        lock (_command)
        {
            Span<byte> span = writer.GetSpan(StateLength)[..StateLength];
            lock (_registerLock)
            {
                Put(ref span, (ulong)StateVersion);
                foreach (ulong value in _registers.Values)
                    Put(ref span, value);
                Put(ref span, _rootTable);
                Put(ref span, _queueSize == 0 ? 0 : _queueBase | (uint)(System.Numerics.BitOperations.Log2(_queueSize) - 7));
                Put(ref span, (ulong)_faults.Next);
            }

            writer.Advance(StateLength);
        }
    }

    /// <summary>
    /// Loads them, then re-switches every device's space, which rebuilds and announces its mappings from the tables in guest RAM.
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
        lock (_command)
        {
            ulong[] values = new ulong[_registers.Values.Length];
            foreach (ref ulong value in values.AsSpan())
                value = Take(ref state);
            ulong root = Take(ref state);
            ulong queue = Take(ref state);
            ulong next = Take(ref state);
            Check(values, root, queue, next);
            lock (_registerLock)
            {
                _registers.Load(values);
                _faults.Next = (int)next;
            }

            Volatile.Write(ref _rootTable, root);
            _queueBase = queue & QueueAddressBits.BaseMask;
            _queueSize = QueueEntries(queue);
            _translationEnabled = (ReadRegister32(RegisterOffsets.GlobalStatus) & GlobalCommandBits.TranslationEnable) != 0;
            Reevaluate(_ => true);
        }
    }

    private void Check(ulong[] values, ulong root, ulong queue, ulong next)
    {
        if (_registers.FindImpossible(values) is { } offset)
        {
            throw new InvalidDataException(
                $"VT-d state has {RegisterName(offset)} 0x{values[offset / 8]:x}, this unit has 0x{_registers.Get64(offset):x} and bits differ that never change");
        }

        if ((root & ~RootTableBits.BaseMask) != 0)
            throw new InvalidDataException($"VT-d state has the root table at 0x{root:x}, which is not 4 KiB aligned");
        if ((queue & ~QueueAddressBits.BaseMask) > QueueAddressBits.SizeMask + 1 || ((queue & ~QueueAddressBits.BaseMask) == 0 && queue != 0))
            throw new InvalidDataException($"VT-d state has the queue 0x{queue:x}; its size code must be 1 to {QueueAddressBits.SizeMask + 1}");
        uint entries = QueueEntries(queue);
        bool enabled = ((uint)(values[RegisterOffsets.GlobalStatus / 8] >> 32) & GlobalCommandBits.QueuedInvalidationEnable) != 0;
        if (enabled != (entries != 0))
            throw new InvalidDataException($"VT-d state has a queue of {entries} entries with queued invalidation {(enabled ? "on" : "off")}");
        ulong head = values[RegisterOffsets.QueueHead / 8] >> DescriptorShift;
        if (head >= Math.Max(entries, 1))
            throw new InvalidDataException($"VT-d state has queue head {head} of {entries} entries");
        if (next >= RegisterOffsets.FaultRecordCount)
            throw new InvalidDataException($"VT-d state has next fault record {next} of {RegisterOffsets.FaultRecordCount}");
    }

    private static uint QueueEntries(ulong queue) => queue == 0 ? 0 : 128u << (int)(queue & ~QueueAddressBits.BaseMask);

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
}
