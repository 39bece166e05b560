using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DMA_MAP and DMA_UNMAP.</content>
internal sealed partial class Session
{
    private Errno DmaMap(IncomingMessage message)
    {
        if (!Wire.TryTake(message.Body, out DmaMapBody request, out _) || request.ArgSize < Unsafe.SizeOf<DmaMapBody>())
            return Errno.EINVAL;
        var access = (DmaAccess)request.Flags;
        if (access == DmaAccess.None || (access & ~(DmaAccess.Read | DmaAccess.Write)) != 0)
            return Errno.EINVAL;
        if (!IsPages(request.Address, request.Size) || message.FileCount > 1)
            return Errno.EINVAL;
        FileDescriptor? file = message.FileCount == 1 ? message.TakeFile() : null;
        return _host.Map(new DmaRange(new DmaAddress(request.Address), request.Size), access, file, request.FileOffset, _maxMappings);
    }

    private Errno DmaUnmap(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        if (!Wire.TryTake(body, out DmaUnmapBody request, out ReadOnlySpan<byte> rest) || request.ArgSize < Unsafe.SizeOf<DmaUnmapBody>())
            return Errno.EINVAL;
        switch (request.Flags)
        {
            case DmaUnmapFlags.All when request is { Address: 0, Size: 0 }:
                _host.UnmapAll();
                length = PutReply(request);
                return Errno.None;
            case DmaUnmapFlags.GetDirtyBitmap:
                return DmaUnmapWithBitmap(request, rest, out length);
            case DmaUnmapFlags.None:
                if (request.Size == 0 || request.Size - 1 > ulong.MaxValue - request.Address)
                    return Errno.EINVAL;
                Errno error = _host.Unmap(request.Address, request.Address + (request.Size - 1));
                if (error == Errno.None)
                    length = PutReply(request);
                return error;
            default:
                return Errno.EINVAL;
        }
    }

    /// <summary>The page size and the size in bytes of the bitmap follow the request; the reply has the bitmap as well.</summary>
    private Errno DmaUnmapWithBitmap(DmaUnmapBody request, ReadOnlySpan<byte> rest, out int length)
    {
        length = 0;
        if (_host.Log is not { } log || !Wire.TryTake(rest, out SpanBody bitmap, out _))
            return Errno.EINVAL;
        ulong pageSize = bitmap.Start;
        if (!ulong.IsPow2(pageSize) || pageSize < WireLimits.PageSize || request.Size == 0
            || ((request.Address | request.Size) & (pageSize - 1)) != 0 || request.Size - 1 > ulong.MaxValue - request.Address)
        {
            return Errno.EINVAL;
        }
        int fixedSize = Unsafe.SizeOf<DmaUnmapBody>() + Unsafe.SizeOf<SpanBody>();
        ulong bytes = Wire.BitmapBytes(request.Size, pageSize);
        if (bitmap.Length != bytes || bytes > WireLimits.MaxTransfer || request.ArgSize < (ulong)fixedSize + bytes)
            return Errno.EINVAL;
        Errno error = _host.Unmap(request.Address, request.Address + (request.Size - 1));
        if (error != Errno.None)
            return error;
        Span<byte> reply = ReserveReply(fixedSize + (int)bytes);
        Wire.Put(reply, request);
        Wire.Put(reply[Unsafe.SizeOf<DmaUnmapBody>()..], bitmap);
        FillBitmap(log, request.Address, request.Size, pageSize, reply[fixedSize..]);
        length = reply.Length;
        return Errno.None;
    }

    private static void FillBitmap(DmaLog log, ulong address, ulong size, ulong pageSize, Span<byte> destination)
    {
        destination.Clear();
        log.Report(address, size, pageSize, MemoryMarshal.Cast<byte, ulong>(destination));
    }

    private static bool IsPages(ulong address, ulong size) =>
        size != 0 && ((address | size) & (WireLimits.PageSize - 1)) == 0 && size - 1 <= ulong.MaxValue - address;
}
