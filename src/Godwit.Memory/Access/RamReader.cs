using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Memory;

/// <summary>
/// Reads of single words of RAM, one after the other, as a table walk makes them: one view and one access guard for all of them. Between
/// opening and disposing, <see cref="MemoryTopology.WaitForAccesses"/> waits for this thread, so what is done in between must be short
/// and wait for nothing.
/// </summary>
public readonly unsafe ref struct RamReader : IDisposable
{
    private readonly AccessGuard _guard;
    private readonly FlatView _view;

    internal RamReader(AddressSpace space)
    {
        _guard = AccessGuard.Current;
        _guard.Enter();
        _view = space.View; // after entering, so that a change is either seen or waits
    }

    /// <summary>
    /// Reads 8 bytes, little endian, once and whole when they are aligned in their block. False, with 0, when they do not lie in one range
    /// of RAM: in registers, behind an IOMMU, or nowhere.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryReadUInt64(BusAddress address, out ulong value)
    {
        ref readonly FlatRange range = ref _view.Find(address.Value);
        if (Unsafe.IsNullRef(in range)
            || range.Region is not RamRegion ram
            || range.Range.Last.Value - address.Value < sizeof(ulong) - 1)
        {
            value = 0;
            return false;
        }

        byte* pointer = ram.Block.GuardedPointer;
        value = 0;
        if (pointer is null)
            return false;
        // SAFETY: the range lies in the block, and the word in the range; the guard keeps the mapping.
        GuestCopy.Read(pointer + range.OffsetInRegion + (address.Value - range.Range.First.Value), MemoryMarshal.AsBytes(new Span<ulong>(ref value)));
        if (!BitConverter.IsLittleEndian)
            value = System.Buffers.Binary.BinaryPrimitives.ReverseEndianness(value);
        return true;
    }

    /// <summary>Ends the reads.</summary>
    public void Dispose() => _guard.Exit();
}
