using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>
/// The values of the registers with, for each bit, whether the guest may write it and whether writing 1 clears it. Knows no behaviour.
/// Not thread-safe; the unit's lock guards it.
/// </summary>
internal sealed class RegisterFile
{
    private const int Words = (RegisterOffsets.FaultRecords + (RegisterOffsets.FaultRecordCount * 16)) / 8;

    private readonly ulong[] _values = new ulong[Words];
    private readonly ulong[] _writable = new ulong[Words];
    private readonly ulong[] _clearOnOne = new ulong[Words];

    /// <summary>All values, for saving and loading.</summary>
    internal Span<ulong> Values => _values;

    /// <summary>Declares a 32-bit register.</summary>
    internal void Define32(int offset, uint value, uint writable, uint clearOnOne = 0)
    {
        int shift = (offset & 4) * 8;
        _writable[offset >> 3] |= (ulong)writable << shift;
        _clearOnOne[offset >> 3] |= (ulong)clearOnOne << shift;
        Set32(offset, value);
    }

    /// <summary>Declares a 64-bit register.</summary>
    internal void Define64(int offset, ulong value, ulong writable, ulong clearOnOne = 0)
    {
        _writable[offset >> 3] = writable;
        _clearOnOne[offset >> 3] = clearOnOne;
        _values[offset >> 3] = value;
    }

    internal uint Get32(int offset) => (uint)(_values[offset >> 3] >> ((offset & 4) * 8));

    internal ulong Get64(int offset) => _values[offset >> 3];

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
