using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Machine.Managed;

/// <summary>
/// What a managed CPU reaches: RAM directly (checked against the board's two windows, marked dirty after each write) and everything else
/// as an MMIO exit through system memory. Bytes of RAM may change at any time; nothing read here is ever trusted as an index or a
/// length without a check. RAM hides whatever a guest places over it, as on a PC, so that the direct path is exact.
/// </summary>
internal sealed unsafe class GuestBus(AddressSpace system, GuestRam ram, RamBlock block, BoardLayout layout)
{
    private readonly byte* _base = block.Pointer;
    private readonly ulong _firstPage = block.FirstPage.Index;

    public BoardLayout Layout => layout;

    /// <summary>Whether <paramref name="length"/> bytes at <paramref name="address"/> are RAM.</summary>
    public bool IsRam(Gpa address, ulong length) => layout.TryGetRamOffset(address, length, out _);

    /// <summary>A value in RAM, not necessarily aligned or read at once.</summary>
    /// <exception cref="GuestPanicException">No RAM there.</exception>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public T Load<T>(Gpa address) where T : unmanaged => Unsafe.ReadUnaligned<T>(Pointer(address, (ulong)sizeof(T)));

    /// <summary>Stores a value in RAM and marks its pages.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store<T>(Gpa address, in T value) where T : unmanaged
    {
        Unsafe.WriteUnaligned(Pointer(address, (ulong)sizeof(T)), value);
        MarkWritten(address, (ulong)sizeof(T));
    }

    /// <summary>A word that a device writes: read at once, before everything that follows.</summary>
    public uint LoadAcquire32(Gpa address)
    {
        if ((address.Value & 3) != 0)
            throw new GuestPanicException($"unaligned atomic load at {address}");
        return Volatile.Read(ref *(uint*)Pointer(address, sizeof(uint)));
    }

    /// <summary>A 64-bit word that a device reads at any time (a table entry): stored at once, after everything before.</summary>
    public void StoreRelease64(Gpa address, ulong value)
    {
        if ((address.Value & 7) != 0)
            throw new GuestPanicException($"unaligned atomic store at {address}");
        Volatile.Write(ref *(ulong*)Pointer(address, sizeof(ulong)), value);
        MarkWritten(address, sizeof(ulong));
    }

    /// <summary>Copies out of RAM.</summary>
    public void Load(Gpa address, Span<byte> destination) =>
        new ReadOnlySpan<byte>(Pointer(address, (ulong)destination.Length), destination.Length).CopyTo(destination);

    /// <summary>Copies into RAM and marks.</summary>
    public void Store(Gpa address, ReadOnlySpan<byte> data)
    {
        data.CopyTo(new Span<byte>(Pointer(address, (ulong)data.Length), data.Length));
        MarkWritten(address, (ulong)data.Length);
    }

    /// <summary>Sets bytes of RAM and marks.</summary>
    public void Fill(Gpa address, ulong length, byte value)
    {
        NativeMemory.Fill(Pointer(address, length), checked((nuint)length), value);
        MarkWritten(address, length);
    }

    /// <summary>
    /// RAM as words, to be read and written in place; the caller calls <see cref="MarkWritten"/> after writing. Racy: another writer shows.
    /// </summary>
    public Span<ulong> Words(Gpa address, int count) =>
        // SAFETY: Pointer has checked the whole length; the block stays mapped until every vCPU thread has ended.
        new(Pointer(address, checked((ulong)count * sizeof(ulong))), count);

    /// <summary>Records a write to RAM, after it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void MarkWritten(Gpa address, ulong length)
    {
        DirtyLog dirty = ram.Dirty;
        if (!dirty.Enabled || length == 0)
            return;
        MarkSlow(dirty, address, length);
    }

    /// <summary>MMIO: 1, 2, 4 or 8 bytes; all ones when nothing answers, as on a PC.</summary>
    public ulong ReadMmio(Gpa address, int size)
    {
        ulong value = ulong.MaxValue;
        MemoryResult result = system.Read(
            BusAddress.FromGpa(address), new Span<byte>(&value, size), TransactionAttributes.Vcpu);
        ulong mask = size == 8 ? ulong.MaxValue : (1UL << (size * 8)) - 1;
        return result == MemoryResult.Ok ? value & mask : mask;
    }

    /// <summary>MMIO: writes the low bytes; lost when nothing answers.</summary>
    public void WriteMmio(Gpa address, ulong value, int size) =>
        _ = system.Write(BusAddress.FromGpa(address), new ReadOnlySpan<byte>(&value, size), TransactionAttributes.Vcpu);

    /// <summary>Host side: copies what is there without a panic. False: no RAM.</summary>
    public bool TryRead(Gpa address, Span<byte> destination)
    {
        if (!layout.TryGetRamOffset(address, (ulong)destination.Length, out ulong offset))
            return false;
        block.Read(offset, destination);
        return true;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private void MarkSlow(DirtyLog dirty, Gpa address, ulong length)
    {
        if (!layout.TryGetRamOffset(address, length, out ulong offset))
            throw NoRam(address, length);
        ulong first = offset >> RamPage.Shift;
        ulong last = (offset + length - 1) >> RamPage.Shift;
        dirty.Mark(new RamPage(_firstPage + first), last - first + 1, DirtySource.Vcpu);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private byte* Pointer(Gpa address, ulong length)
    {
        // SAFETY: the layout's windows lie inside the block, so base plus a checked offset stays inside its mapping.
        if (!layout.TryGetRamOffset(address, length, out ulong offset))
            throw NoRam(address, length);
        return _base + offset;
    }

    private static GuestPanicException NoRam(Gpa address, ulong length) => new($"no RAM at {address} for {length} bytes");
}
