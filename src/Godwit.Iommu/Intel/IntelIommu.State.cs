using System.Buffers;
using System.Buffers.Binary;
using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

// What migrates: registers, what was latched from them, and where fault recording stands. Caches and records of announcements are rebuilt.
public sealed partial class IntelIommu
{
    private const int LatchedWords = 3;

    /// <summary>Version of the state that <see cref="SaveState"/> writes.</summary>
    public static int StateVersion => 1;

    private int StateLength => (_registers.Values.Length + LatchedWords) * sizeof(ulong);

    /// <summary>Saves registers, latched tables and queue state. The vCPUs are stopped.</summary>
    public void SaveState(IBufferWriter<byte> writer)
    {
        ArgumentNullException.ThrowIfNull(writer);
        lock (_command)
        {
            Span<byte> span = writer.GetSpan(StateLength)[..StateLength];
            lock (_registerLock)
            {
                foreach (ulong value in _registers.Values)
                    Put(ref span, value);
                Put(ref span, _rootTable);
                Put(ref span, _queueBase | (_queueSize >> 8)); // a base has its low 12 bits clear
                Put(ref span, (ulong)_faults.Next);
            }

            writer.Advance(StateLength);
        }
    }

    /// <summary>
    /// Loads them, then re-switches every device's space, which rebuilds and announces its mappings from the tables in guest RAM.
    /// RAM and bridge numbers must have been loaded before.
    /// </summary>
    /// <exception cref="InvalidDataException">Not a state of this unit; nothing was changed.</exception>
    public void LoadState(ReadOnlySpan<byte> state)
    {
        if (state.Length != StateLength)
            throw new InvalidDataException($"VT-d state has {state.Length} bytes, expected {StateLength}");
        lock (_command)
        {
            Span<ulong> values = stackalloc ulong[_registers.Values.Length];
            foreach (ref ulong value in values)
                value = Take(ref state);
            ulong root = Take(ref state);
            ulong queue = Take(ref state);
            ulong next = Take(ref state);
            Check(values, RegisterOffsets.Capability, "CAP");
            Check(values, RegisterOffsets.ExtendedCapability, "ECAP");
            uint size = (uint)(queue & 0xFFF) << 8;
            if (size != 0 && (!uint.IsPow2(size) || size > 256u << 7))
                throw new InvalidDataException($"VT-d state has an invalidation queue of {size} entries, the limit is {256u << 7}");
            if (next >= RegisterOffsets.FaultRecordCount)
                throw new InvalidDataException($"VT-d state has next fault record {next} of {RegisterOffsets.FaultRecordCount}");
            lock (_registerLock)
            {
                values.CopyTo(_registers.Values);
                _faults.Next = (int)next;
            }

            Volatile.Write(ref _rootTable, root & RootTableBits.BaseMask);
            _queueBase = queue & QueueAddressBits.BaseMask;
            _queueSize = size;
            _translationEnabled = (ReadRegister32(RegisterOffsets.GlobalStatus) & GlobalCommandBits.TranslationEnable) != 0;
            Reevaluate(_ => true);
        }
    }

    private void Check(ReadOnlySpan<ulong> values, int offset, string name)
    {
        ulong own = _registers.Get64(offset);
        if (values[offset >> 3] != own)
            throw new InvalidDataException($"VT-d state was saved with {name} 0x{values[offset >> 3]:x}, this unit has 0x{own:x}");
    }

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
