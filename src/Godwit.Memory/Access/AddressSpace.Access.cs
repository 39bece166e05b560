using System.Runtime.CompilerServices;

namespace Godwit.Memory;

// Reads and writes. Each piece of an access is routed and used under one guard; handlers of registers run outside it.
public sealed unsafe partial class AddressSpace
{
    /// <summary>
    /// Most IOMMU regions that one access passes, and most times that it is routed again because a translation touched registers. Real
    /// machines have one; more than this is a loop of translations.
    /// </summary>
    internal const int MaxTranslations = 8;

    /// <summary>
    /// Most register handlers on one thread's stack. A device whose DMA hits registers hits those of a bridge, another device and an
    /// interrupt controller at most; a device that a hostile guest points at itself recurses until here.
    /// </summary>
    internal const int MaxHandlerDepth = 8;

    /// <summary>
    /// Reads, through IOMMU regions if need be. Splits at range borders; stops at the first failing piece, when what comes before is in
    /// <paramref name="destination"/> already. Allocates nothing and takes no lock on RAM; aligned pieces of 1, 2, 4 and 8 bytes are
    /// single accesses to it.
    /// </summary>
    public MemoryResult Read(BusAddress address, Span<byte> destination, in TransactionAttributes attributes)
    {
        if (destination.IsEmpty)
            return MemoryResult.Ok;
        AccessGuard guard = AccessGuard.Current;
        guard.Enter();
        try
        {
            // The common case: all of it in one range of RAM.
            ref readonly FlatRange range = ref View.Find(address.Value);
            if (!Unsafe.IsNullRef(in range)
                && range.Region is RamRegion ram
                && (ulong)(uint)destination.Length - 1 <= range.Range.Last.Value - address.Value
                && ram.Block.GuardedPointer is not null and var pointer)
            {
                // SAFETY: the range lies in the block, and the piece in the range; the guard keeps the mapping.
                GuestCopy.Read(pointer + range.OffsetInRegion + (address.Value - range.Range.First.Value), destination);
                return MemoryResult.Ok;
            }

            return ReadPieces(guard, address.Value, destination, attributes);
        }
        finally
        {
            guard.Exit();
        }
    }

    /// <summary>Writes likewise; RAM pages are marked after the write.</summary>
    public MemoryResult Write(BusAddress address, ReadOnlySpan<byte> data, in TransactionAttributes attributes)
    {
        if (data.IsEmpty)
            return MemoryResult.Ok;
        AccessGuard guard = AccessGuard.Current;
        guard.Enter();
        try
        {
            ref readonly FlatRange range = ref View.Find(address.Value);
            if (!Unsafe.IsNullRef(in range)
                && range.Region is RamRegion ram
                && !range.ReadOnly
                && (ulong)(uint)data.Length - 1 <= range.Range.Last.Value - address.Value
                && ram.Block.GuardedPointer is not null and var pointer)
            {
                // SAFETY: the range lies in the block, and the piece in the range; the guard keeps the mapping.
                ulong offset = range.OffsetInRegion + (address.Value - range.Range.First.Value);
                GuestCopy.Write(data, pointer + offset);
                ram.Block.MarkWritten(offset, (uint)data.Length, attributes.Source);
                return MemoryResult.Ok;
            }

            return WritePieces(guard, address.Value, data, attributes);
        }
        finally
        {
            guard.Exit();
        }
    }

    /// <summary>
    /// Compare-and-exchange of an aligned 64-bit word in RAM, for table entries that the guest also changes. A full fence; the page is
    /// marked when the exchange took place. <paramref name="previous"/> is what was found; the exchange took place when it equals
    /// <paramref name="expected"/> and the result is <see cref="MemoryResult.Ok"/>. Unaligned words and registers are refused.
    /// </summary>
    public MemoryResult CompareExchange(
        BusAddress address, ulong expected, ulong desired, out ulong previous, in TransactionAttributes attributes)
    {
        previous = 0;
        if (address.Value % sizeof(ulong) != 0)
            return MemoryResult.AccessError;
        AccessGuard guard = AccessGuard.Current;
        guard.Enter();
        try
        {
            MemoryResult result = Route(guard, address.Value, sizeof(ulong), AccessRights.ReadWrite, attributes, out Piece piece);
            if (result != MemoryResult.Ok)
                return result;
            if (piece.Length != sizeof(ulong) || piece.Offset % sizeof(ulong) != 0 || piece.Region is not RamRegion { Block: { } block })
                return MemoryResult.AccessError;
            byte* pointer = block.GuardedPointer;
            if (pointer is null)
                return MemoryResult.DecodeError;
            // SAFETY: the piece lies in the block and is aligned; the guard keeps the mapping.
            previous = Interlocked.CompareExchange(ref *(ulong*)(pointer + piece.Offset), desired, expected);
            if (previous == expected)
                block.MarkWritten(piece.Offset, sizeof(ulong), attributes.Source);
            return MemoryResult.Ok;
        }
        finally
        {
            guard.Exit();
        }
    }

    /// <summary>
    /// Resolves an address of plain RAM without IOMMU: block, offset, and how many bytes follow contiguously in the same block. False,
    /// and <paramref name="block"/> null, when something else or nothing is there.
    /// </summary>
    public bool TryResolveRam(BusAddress address, out RamBlock block, out ulong offset, out ulong contiguous, out bool readOnly)
    {
        ref readonly FlatRange range = ref View.Find(address.Value);
        if (Unsafe.IsNullRef(in range) || range.Region is not RamRegion ram)
        {
            block = null!; // false says so
            offset = 0;
            contiguous = 0;
            readOnly = false;
            return false;
        }

        block = ram.Block;
        offset = range.OffsetInRegion + (address.Value - range.Range.First.Value);
        contiguous = range.Range.Last.Value - address.Value + 1; // a block is smaller than 2^64
        readOnly = range.ReadOnly;
        return true;
    }

    /// <summary>Opens a series of reads of single words of plain RAM. To be disposed on the same thread, soon.</summary>
    public RamReader OpenRam() => new(this);

    private MemoryResult ReadPieces(AccessGuard guard, ulong address, Span<byte> destination, in TransactionAttributes attributes)
    {
        // An access that wraps at the top of the space fails where it leaves it.
        int whole = destination.Length;
        while (true)
        {
            MemoryResult result = Route(guard, address, (uint)destination.Length, AccessRights.Read, attributes, out Piece piece);
            if (result != MemoryResult.Ok)
                return result;
            Span<byte> part = destination[..(int)piece.Length];
            if (piece.Region is RamRegion ram)
            {
                byte* pointer = ram.Block.GuardedPointer;
                if (pointer is null)
                    return MemoryResult.DecodeError;
                // SAFETY: the piece lies in the block; the guard keeps the mapping.
                GuestCopy.Read(pointer + piece.Offset, part);
            }
            else
            {
                result = ReadRegisters(guard, (MmioRegion)piece.Region, piece.Offset, part, part.Length == whole, attributes);
                if (result != MemoryResult.Ok)
                    return result;
            }

            destination = destination[part.Length..];
            if (destination.IsEmpty)
                return MemoryResult.Ok;
            address += (uint)part.Length;
            if (address == 0)
                return MemoryResult.DecodeError;
        }
    }

    private MemoryResult WritePieces(AccessGuard guard, ulong address, ReadOnlySpan<byte> data, in TransactionAttributes attributes)
    {
        int whole = data.Length;
        while (true)
        {
            MemoryResult result = Route(guard, address, (uint)data.Length, AccessRights.Write, attributes, out Piece piece);
            if (result != MemoryResult.Ok)
                return result;
            ReadOnlySpan<byte> part = data[..(int)piece.Length];
            if (piece.Region is RamRegion ram)
            {
                byte* pointer = ram.Block.GuardedPointer;
                if (pointer is null)
                    return MemoryResult.DecodeError;
                // SAFETY: the piece lies in the block; the guard keeps the mapping.
                GuestCopy.Write(part, pointer + piece.Offset);
                ram.Block.MarkWritten(piece.Offset, piece.Length, attributes.Source);
            }
            else
            {
                result = WriteRegisters(guard, (MmioRegion)piece.Region, piece.Offset, part, part.Length == whole, attributes);
                if (result != MemoryResult.Ok)
                    return result;
            }

            data = data[part.Length..];
            if (data.IsEmpty)
                return MemoryResult.Ok;
            address += (uint)part.Length;
            if (address == 0)
                return MemoryResult.DecodeError;
        }
    }

    /// <summary>
    /// Finds what answers at <paramref name="address"/>, and how much of the access it takes. To be used before the guard is opened.
    /// When a translation opened the guard itself (its tables lie in registers, or its fault was an interrupt), what it said may be
    /// stale, so the access is routed again.
    /// </summary>
    private MemoryResult Route(
        AccessGuard guard, ulong address, ulong length, AccessRights wanted, in TransactionAttributes attributes, out Piece piece)
    {
        for (int attempt = 0; attempt < MaxTranslations; attempt++)
        {
            long openings = guard.Openings;
            MemoryResult result = RouteOnce(address, length, wanted, attributes, out piece);
            if (result != MemoryResult.Ok || guard.Openings == openings)
                return result;
        }

        piece = default;
        return MemoryResult.AccessError;
    }

    private MemoryResult RouteOnce(
        ulong address, ulong length, AccessRights wanted, in TransactionAttributes attributes, out Piece piece)
    {
        piece = default;
        AddressSpace space = this;
        for (int translations = 0; ; translations++)
        {
            ref readonly FlatRange range = ref space.View.Find(address);
            if (Unsafe.IsNullRef(in range))
                return MemoryResult.DecodeError;
            ulong offset = range.OffsetInRegion + (address - range.Range.First.Value);
            length = Math.Min(length - 1, range.Range.Last.Value - address) + 1;
            if (range.Region is not IommuRegion iommu)
            {
                if (range.ReadOnly && (wanted & AccessRights.Write) != 0)
                    return MemoryResult.AccessError;
                piece = new Piece(range.Region, offset, length);
                return MemoryResult.Ok;
            }

            if (translations == MaxTranslations)
                return MemoryResult.AccessError;
            IommuTranslation translation = iommu.Translate(new Iova(offset), wanted, attributes);
            if ((translation.Rights & wanted) != wanted)
                return MemoryResult.AccessError;
            ulong inside = offset - translation.Input.Value;
            if (translation.Input.Value > offset || inside > translation.Mask)
                throw new InvalidOperationException($"{iommu} answered for {new Iova(offset)} with a piece elsewhere: {translation}");
            length = Math.Min(length - 1, translation.Mask - inside) + 1;
            address = translation.Output.Value + inside;
            if (address < inside)
                return MemoryResult.DecodeError;
            space = _topology.System;
        }
    }

    private static MemoryResult ReadRegisters(
        AccessGuard guard, MmioRegion region, ulong offset, Span<byte> destination, bool whole, in TransactionAttributes attributes)
    {
        if (guard.HandlerDepth >= MaxHandlerDepth)
            return MemoryResult.AccessError;
        int depth = guard.Leave();
        try
        {
            return region.Read(offset, destination, whole, attributes);
        }
        finally
        {
            guard.Return(depth);
        }
    }

    private static MemoryResult WriteRegisters(
        AccessGuard guard, MmioRegion region, ulong offset, ReadOnlySpan<byte> data, bool whole, in TransactionAttributes attributes)
    {
        if (guard.HandlerDepth >= MaxHandlerDepth)
            return MemoryResult.AccessError;
        int depth = guard.Leave();
        try
        {
            return region.Write(offset, data, whole, attributes);
        }
        finally
        {
            guard.Return(depth);
        }
    }

    /// <summary>A part of an access that one region answers.</summary>
    private readonly record struct Piece(MemoryRegion Region, ulong Offset, ulong Length);
}
