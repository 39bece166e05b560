using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DMA_MAP and DMA_UNMAP.</content>
public sealed partial class VfioUserClient
{
    /// <summary>Refusals listed in the exception of one flush; further ones are only counted.</summary>
    private const int MaxRefusalsThrown = 16;

    /// <summary>
    /// DMA_MAP and waits. <paramref name="file"/> null: the device uses DMA messages, as does one that takes no descriptors at all.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is empty, leaves 64 bits or is not in pages of 4 KiB.</exception>
    /// <exception cref="VfioUserRemoteException">
    /// The device refused, for example with EEXIST. EINVAL: it said that its pages are larger (<see cref="DmaPageSize"/>), so it was not asked.
    /// </exception>
    public void DmaMap(DmaRange range, DmaAccess access, FileDescriptor? file, ulong fileOffset)
    {
        if (MaxMessageFiles == 0)
            file = null;
        DmaMapBody request = MapRequest(range, access, file, fileOffset);
        if (!IsInPages(range))
            throw new VfioUserRemoteException($"DMA_MAP of {range}", Errno.EINVAL, $"the device's pages have {DmaPageSize} bytes");
        _connection.Call(Command.DmaMap, "DMA_MAP", Bytes(in request), [], file is null ? [] : new ReadOnlySpan<FileDescriptor>(in file), [], []);
    }

    /// <summary>DMA_UNMAP of exactly mapped ranges and waits: on return the device does no more DMA there.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is empty, leaves 64 bits or is not in pages of 4 KiB.</exception>
    /// <exception cref="VfioUserRemoteException">The device refused.</exception>
    public void DmaUnmap(DmaRange range)
    {
        DmaUnmapBody request = UnmapRequest(range);
        if (!IsInPages(range))
            throw new VfioUserRemoteException($"DMA_UNMAP of {range}", Errno.ENOENT, $"the device's pages have {DmaPageSize} bytes");
        DmaUnmapBody reply = default;
        _connection.Call(Command.DmaUnmap, "DMA_UNMAP", Bytes(in request), [], [], MemoryMarshal.AsBytes(new Span<DmaUnmapBody>(ref reply)), []);
    }

    /// <summary>DMA_UNMAP of everything and waits: on return the device does no more DMA.</summary>
    /// <exception cref="VfioUserRemoteException">The device refused, perhaps because it does not know the flag.</exception>
    public void DmaUnmapAll()
    {
        var request = new DmaUnmapBody { ArgSize = (uint)Unsafe.SizeOf<DmaUnmapBody>(), Flags = DmaUnmapFlags.All };
        DmaUnmapBody reply = default;
        _connection.Call(Command.DmaUnmap, "DMA_UNMAP of everything", Bytes(in request), [], [], MemoryMarshal.AsBytes(new Span<DmaUnmapBody>(ref reply)), []);
    }

    /// <summary>
    /// DMA_UNMAP that also tells what the device wrote there since the last report, its log being on. Bits are ORed into
    /// <paramref name="bitmap"/>, bit 0 being the range's first page.
    /// </summary>
    /// <param name="range">Exactly mapped ranges, in whole pages of <paramref name="pageSize"/>; as many as the bitmap of one message tells of.</param>
    /// <param name="pageSize">Bytes for each bit, a power of two from 4 KiB.</param>
    /// <param name="bitmap">At least one bit for each page.</param>
    /// <exception cref="ArgumentOutOfRangeException">The range, the page size or the bitmap are not so.</exception>
    /// <exception cref="VfioUserRemoteException">The device refused; the range is still mapped.</exception>
    public void DmaUnmap(DmaRange range, ulong pageSize, Span<ulong> bitmap)
    {
        DmaUnmapBody unmap = UnmapRequest(range);
        if (!ulong.IsPow2(pageSize) || pageSize < WireLimits.PageSize || ((range.Address.Value | range.Length) & (pageSize - 1)) != 0)
            throw new ArgumentOutOfRangeException(nameof(pageSize), pageSize, $"A power of two, at least {WireLimits.PageSize}, of which the range is a multiple");
        ulong bytes = Wire.BitmapBytes(range.Length, pageSize);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(bytes, (ulong)bitmap.Length * sizeof(ulong), nameof(bitmap));
        Span<byte> request = stackalloc byte[Unsafe.SizeOf<DmaUnmapBody>() + Unsafe.SizeOf<SpanBody>()];
        ArgumentOutOfRangeException.ThrowIfGreaterThan(bytes, (ulong)(MaxTransfer - request.Length), nameof(range));
        unmap.Flags = DmaUnmapFlags.GetDirtyBitmap;
        unmap.ArgSize = (uint)(request.Length + (int)bytes);
        Wire.Put(request[Wire.Put(request, unmap)..], new SpanBody { Start = pageSize, Length = bytes });
        ulong[] words = ArrayPool<ulong>.Shared.Rent((int)(bytes / sizeof(ulong)));
        try
        {
            Span<ulong> dirty = words.AsSpan(0, (int)(bytes / sizeof(ulong)));
            int length = _connection.Call(Command.DmaUnmap, $"DMA_UNMAP of {range} with its bitmap", request, [], [], request, MemoryMarshal.AsBytes(dirty));
            if (length != request.Length + (int)bytes)
                _connection.Violated($"DMA_UNMAP with a bitmap was answered with {length} bytes instead of {request.Length + (int)bytes}");
            ulong pages = range.Length / pageSize;
            if (pages % 64 != 0)
                dirty[^1] &= (1UL << (int)(pages % 64)) - 1; // what lies behind the range is not the device's to say
            for (int i = 0; i < dirty.Length; i++)
                bitmap[i] |= dirty[i];
        }
        finally
        {
            ArrayPool<ulong>.Shared.Return(words);
        }
    }

    /// <summary>
    /// DMA_MAP sent without waiting; order is kept. <see cref="DmaFlush()"/> waits for all and throws the first error. Waits for earlier
    /// answers only when <see cref="RequestSlot.Count"/> requests are under way. What is no multiple of <see cref="DmaPageSize"/> counts as refused with EINVAL.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is empty, leaves 64 bits or is not in pages of 4 KiB.</exception>
    public void DmaMapQueued(DmaRange range, DmaAccess access, FileDescriptor? file, ulong fileOffset)
    {
        if (MaxMessageFiles == 0)
            file = null;
        DmaMapBody request = MapRequest(range, access, file, fileOffset);
        if (!IsInPages(range))
        {
            _connection.QueueRefused(Command.DmaMap, range, Errno.EINVAL);
            return;
        }
        _connection.Queue(Command.DmaMap, range, Bytes(in request), file is null ? [] : new ReadOnlySpan<FileDescriptor>(in file), replyHead: 0);
    }

    /// <summary>DMA_UNMAP sent without waiting.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is empty, leaves 64 bits or is not in pages of 4 KiB.</exception>
    public void DmaUnmapQueued(DmaRange range)
    {
        DmaUnmapBody request = UnmapRequest(range);
        if (!IsInPages(range))
        {
            _connection.QueueRefused(Command.DmaUnmap, range, Errno.ENOENT); // it cannot have been mapped
            return;
        }
        _connection.Queue(Command.DmaUnmap, range, Bytes(in request), [], Unsafe.SizeOf<DmaUnmapBody>());
    }

    /// <summary>
    /// Waits until every map and unmap queued before has been answered. Throws for the first that failed, naming it; when there were
    /// more, the inner <see cref="AggregateException"/> holds them.
    /// </summary>
    /// <exception cref="VfioUserRemoteException">The device refused some.</exception>
    public void DmaFlush()
    {
        IReadOnlyList<DmaOperationFailure> failures = _connection.Flush();
        if (failures.Count == 0)
            return;
        VfioUserRemoteException[] refused = [.. failures.Take(MaxRefusalsThrown).Select(f => new VfioUserRemoteException($"{f.Command} of {f.Range}", f.Errno))];
        throw failures.Count == 1
            ? refused[0]
            : new VfioUserRemoteException(refused[0].Command, refused[0].Errno, $"the first of {failures.Count} refused", new AggregateException(refused));
    }

    /// <summary>
    /// Waits until every map and unmap queued before has been answered, and appends those that the device refused, in order of the
    /// answers. With several threads that queue at once the numbers count the operations of all.
    /// </summary>
    public void DmaFlush(ICollection<DmaOperationFailure> failures)
    {
        foreach (DmaOperationFailure failure in _connection.Flush())
            failures.Add(failure);
    }

    /// <summary>Whether the device has pages so small.</summary>
    private bool IsInPages(DmaRange range) => ((range.Address.Value | range.Length) & (DmaPageSize - 1)) == 0;

    private static DmaMapBody MapRequest(DmaRange range, DmaAccess access, FileDescriptor? file, ulong fileOffset)
    {
        Check(range);
        if (access is DmaAccess.None || (access & ~(DmaAccess.Read | DmaAccess.Write)) != 0)
            throw new ArgumentOutOfRangeException(nameof(access), access, "Read, Write or both");
        return new DmaMapBody
        {
            ArgSize = (uint)Unsafe.SizeOf<DmaMapBody>(),
            Flags = (uint)access,
            FileOffset = file is null ? 0 : fileOffset,
            Address = range.Address.Value,
            Size = range.Length,
        };
    }

    private static DmaUnmapBody UnmapRequest(DmaRange range)
    {
        Check(range);
        return new DmaUnmapBody { ArgSize = (uint)Unsafe.SizeOf<DmaUnmapBody>(), Address = range.Address.Value, Size = range.Length };
    }

    private static void Check(DmaRange range)
    {
        ulong start = range.Address.Value;
        if (range.Length == 0 || range.Length - 1 > ulong.MaxValue - start || ((start | range.Length) & (WireLimits.PageSize - 1)) != 0)
            throw new ArgumentOutOfRangeException(nameof(range), range, $"Not empty, in pages of {WireLimits.PageSize} bytes, inside 64 bits");
    }
}
