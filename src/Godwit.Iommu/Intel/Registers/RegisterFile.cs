using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>
/// The values of the registers with, for each bit, whether the guest may write it, whether writing 1 clears it and whether the unit
/// changes it; all other bits keep their first value. Knows no behaviour. Not thread-safe; the unit's lock guards it.
/// </summary>
internal sealed class RegisterFile
{
    private const int Words = (RegisterOffsets.FaultRecords + (RegisterOffsets.FaultRecordCount * 16)) / 8;

    private readonly ulong[] _values = new ulong[Words];
    private readonly ulong[] _writable = new ulong[Words];
    private readonly ulong[] _clearOnOne = new ulong[Words];
    private readonly ulong[] _changing = new ulong[Words];
    private readonly ulong[] _first = new ulong[Words];

    /// <summary>All values, for saving.</summary>
    internal ReadOnlySpan<ulong> Values => _values;

    /// <summary>Declares a 32-bit register; <paramref name="status"/> are bits that only the unit changes.</summary>
    internal void Define32(int offset, uint value, uint writable, uint clearOnOne = 0, uint status = 0)
    {
        int shift = (offset & 4) * 8;
        _writable[offset >> 3] |= (ulong)writable << shift;
        _clearOnOne[offset >> 3] |= (ulong)clearOnOne << shift;
        _changing[offset >> 3] |= (ulong)(writable | clearOnOne | status) << shift;
        _first[offset >> 3] |= (ulong)value << shift;
        Set32(offset, value);
    }

    /// <summary>Declares a 64-bit register.</summary>
    internal void Define64(int offset, ulong value, ulong writable, ulong clearOnOne = 0, ulong status = 0)
    {
        Define32(offset, (uint)value, (uint)writable, (uint)clearOnOne, (uint)status);
        Define32(offset + 4, (uint)(value >> 32), (uint)(writable >> 32), (uint)(clearOnOne >> 32), (uint)(status >> 32));
    }

    /// <summary>Power-on values.</summary>
    internal void Reset() => _first.CopyTo(_values.AsSpan());

    /// <summary>Offset of the first 64-bit word of <paramref name="values"/> that this unit can never have, or null.</summary>
    internal int? FindImpossible(ReadOnlySpan<ulong> values)
    {
        for (int word = 0; word < Words; word++)
        {
            if (((values[word] ^ _first[word]) & ~_changing[word]) != 0)
                return word * 8;
        }

        return null;
    }

    /// <summary>Takes values that <see cref="FindImpossible"/> has passed.</summary>
    internal void Load(ReadOnlySpan<ulong> values) => values.CopyTo(_values);

    internal uint Get32(int offset) => (uint)(_values[offset >> 3] >> ((offset & 4) * 8));

    internal ulong Get64(int offset) => _values[offset >> 3];

    /// <summary>Which bits of a 64-bit register the guest can write.</summary>
    internal ulong Writable64(int offset) => _writable[offset >> 3];

    internal void Set32(int offset, uint value)
    {
        int shift = (offset & 4) * 8;
        ref ulong word = ref _values[offset >> 3];
        word = (word & ~(0xFFFF_FFFFUL << shift)) | ((ulong)value << shift);
    }

    internal void Set64(int offset, ulong value) => _values[offset >> 3] = value;

    /// <summary>What the guest reads; all ones outside the registers.</summary>
    internal ulong GuestRead(int offset, int size)
    {
        if (offset + size > Words * 8)
            return ulong.MaxValue;
        return size == 8 ? Get64(offset) : Get32(offset);
    }

    /// <summary>Applies a guest write through the masks; nothing outside the registers.</summary>
    internal void GuestWrite(int offset, ulong value, int size)
    {
        if (offset + size > Words * 8)
            return;
        int shift = (offset & 4) * 8;
        ulong lanes = size == 8 ? ulong.MaxValue : 0xFFFF_FFFFUL << shift;
        ulong data = size == 8 ? value : value << shift;
        ulong writable = _writable[offset >> 3] & lanes;
        ref ulong word = ref _values[offset >> 3];
        word = (word & ~writable) | (data & writable);
        word &= ~(data & lanes & _clearOnOne[offset >> 3]);
    }
}
