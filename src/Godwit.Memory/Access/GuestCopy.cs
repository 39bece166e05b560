using System.Runtime.CompilerServices;

namespace Godwit.Memory;

/// <summary>
/// Copies between guest memory, which other threads and processes change at any time, and private memory. Up to
/// <see cref="ExactBytes"/> every naturally aligned 1, 2, 4 or 8-byte piece of guest memory is accessed exactly once and whole, in
/// ascending order, so that doorbells, ring indexes and table entries cannot tear. Longer copies are bulk data: aligned words are
/// still moved whole, but in any order.
/// </summary>
internal static unsafe class GuestCopy
{
    /// <summary>Largest copy made word by word: more than any ring entry or descriptor, less than where a block copy wins.</summary>
    internal const int ExactBytes = 256;

    /// <summary>Copies guest memory out.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Read(byte* source, Span<byte> destination)
    {
        // SAFETY: the caller bounded destination.Length by the block; the span's own memory is as long as it says.
        ref byte target = ref System.Runtime.InteropServices.MemoryMarshal.GetReference(destination);
        if (destination.Length == 8 && ((nuint)source & 7) == 0)
            Unsafe.WriteUnaligned(ref target, Volatile.Read(ref *(ulong*)source));
        else if (destination.Length == 4 && ((nuint)source & 3) == 0)
            Unsafe.WriteUnaligned(ref target, Volatile.Read(ref *(uint*)source));
        else
            ReadAny(source, ref target, destination.Length);
    }

    /// <summary>Copies into guest memory.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Write(ReadOnlySpan<byte> source, byte* destination)
    {
        // SAFETY: the caller bounded source.Length by the block; the span's own memory is as long as it says.
        ref byte origin = ref System.Runtime.InteropServices.MemoryMarshal.GetReference(source);
        if (source.Length == 8 && ((nuint)destination & 7) == 0)
            Volatile.Write(ref *(ulong*)destination, Unsafe.ReadUnaligned<ulong>(ref origin));
        else if (source.Length == 4 && ((nuint)destination & 3) == 0)
            Volatile.Write(ref *(uint*)destination, Unsafe.ReadUnaligned<uint>(ref origin));
        else
            WriteAny(ref origin, destination, source.Length);
    }

    private static void ReadAny(byte* source, ref byte target, int length)
    {
        // SAFETY: as in Read; each piece lies within the remaining length.
        if (length > ExactBytes)
        {
            int head = (int)(-(nint)source & 7);
            ReadAny(source, ref target, head);
            int bulk = (length - head) & ~7;
            fixed (byte* pinned = &target)
                Buffer.MemoryCopy(source + head, pinned + head, bulk, bulk);
            source += head + bulk;
            target = ref Unsafe.Add(ref target, head + bulk);
            length -= head + bulk;
        }

        while (length > 0)
        {
            int piece = Piece((nuint)source, length);
            switch (piece)
            {
                case 8: Unsafe.WriteUnaligned(ref target, Volatile.Read(ref *(ulong*)source)); break;
                case 4: Unsafe.WriteUnaligned(ref target, Volatile.Read(ref *(uint*)source)); break;
                case 2: Unsafe.WriteUnaligned(ref target, Volatile.Read(ref *(ushort*)source)); break;
                default: target = Volatile.Read(ref *source); break;
            }

            source += piece;
            target = ref Unsafe.Add(ref target, piece);
            length -= piece;
        }
    }

    private static void WriteAny(ref byte origin, byte* destination, int length)
    {
        // SAFETY: as in Write; each piece lies within the remaining length.
        if (length > ExactBytes)
        {
            int head = (int)(-(nint)destination & 7);
            WriteAny(ref origin, destination, head);
            int bulk = (length - head) & ~7;
            fixed (byte* pinned = &origin)
                Buffer.MemoryCopy(pinned + head, destination + head, bulk, bulk);
            origin = ref Unsafe.Add(ref origin, head + bulk);
            destination += head + bulk;
            length -= head + bulk;
        }

        while (length > 0)
        {
            int piece = Piece((nuint)destination, length);
            switch (piece)
            {
                case 8: Volatile.Write(ref *(ulong*)destination, Unsafe.ReadUnaligned<ulong>(ref origin)); break;
                case 4: Volatile.Write(ref *(uint*)destination, Unsafe.ReadUnaligned<uint>(ref origin)); break;
                case 2: Volatile.Write(ref *(ushort*)destination, Unsafe.ReadUnaligned<ushort>(ref origin)); break;
                default: Volatile.Write(ref *destination, origin); break;
            }

            origin = ref Unsafe.Add(ref origin, piece);
            destination += piece;
            length -= piece;
        }
    }

    /// <summary>The largest of 8, 4, 2, 1 that fits the length and the alignment.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int Piece(nuint address, int length)
    {
        if ((address & 7) == 0 && length >= 8)
            return 8;
        if ((address & 3) == 0 && length >= 4)
            return 4;
        return (address & 1) == 0 && length >= 2 ? 2 : 1;
    }
}
