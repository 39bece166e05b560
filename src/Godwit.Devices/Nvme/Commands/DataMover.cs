using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>
/// Moves the data of a command between the image and guest memory: straight where the memory is mapped into this process, over the
/// worker's own buffer where the client wants messages.
/// </summary>
internal static unsafe class DataMover
{
    /// <summary>Image to guest.</summary>
    public static NvmeStatus Read(CommandContext context, ImageFile image, ulong offset)
    {
        for (int i = 0; i < context.Segments.Count; i++)
        {
            DmaSegment segment = context.Segments[i];
            for (int done = 0; done < segment.Length;)
            {
                NvmeStatus status = ReadPiece(context, image, offset, segment.Address + (ulong)done, segment.Length - done, out int step);
                if (status != NvmeStatus.Success)
                    return status;
                done += step;
                offset += (ulong)step;
            }
        }
        return NvmeStatus.Success;
    }

    /// <summary>Guest to image.</summary>
    public static NvmeStatus Write(CommandContext context, ImageFile image, ulong offset)
    {
        for (int i = 0; i < context.Segments.Count; i++)
        {
            DmaSegment segment = context.Segments[i];
            for (int done = 0; done < segment.Length;)
            {
                NvmeStatus status = WritePiece(context, image, offset, segment.Address + (ulong)done, segment.Length - done, out int step);
                if (status != NvmeStatus.Success)
                    return status;
                done += step;
                offset += (ulong)step;
            }
        }
        return NvmeStatus.Success;
    }

    /// <summary>Image against guest; both are copied first, since the guest may write meanwhile.</summary>
    public static NvmeStatus Compare(CommandContext context, ImageFile image, ulong offset)
    {
        const int Half = CommandContext.BounceSize / 2;
        for (int i = 0; i < context.Segments.Count; i++)
        {
            DmaSegment segment = context.Segments[i];
            for (int done = 0; done < segment.Length;)
            {
                int step = Math.Min(segment.Length - done, Half);
                Errno errno = image.Read(BouncePointer(context), step, offset);
                if (errno != Errno.None)
                    return ReadStatus(errno);
                Span<byte> guest = context.Bounce.AsSpan(Half, step);
                if (!context.Host.Read(new DmaAddress(segment.Address + (ulong)done), guest))
                    return NvmeStatus.DataTransferError;
                if (!guest.SequenceEqual(context.Bounce.AsSpan(0, step)))
                    return NvmeStatus.CompareFailure;
                done += step;
                offset += (ulong)step;
            }
        }
        return NvmeStatus.Success;
    }

    /// <summary>Status of a failed read of the image.</summary>
    public static NvmeStatus ReadStatus(Errno errno) => errno switch
    {
        Errno.None => NvmeStatus.Success,
        Errno.EFAULT => NvmeStatus.DataTransferError, // the guest's memory went away under its mapping
        _ => NvmeStatus.UnrecoveredReadError,
    };

    /// <summary>Status of a failed write, flush or deallocation of the image.</summary>
    public static NvmeStatus WriteStatus(Errno errno) => errno switch
    {
        Errno.None => NvmeStatus.Success,
        Errno.EFAULT => NvmeStatus.DataTransferError,
        Errno.ENOSPC or Errno.EDQUOT or Errno.EFBIG => NvmeStatus.CapacityExceeded,
        _ => NvmeStatus.WriteFault,
    };

    private static NvmeStatus ReadPiece(CommandContext context, ImageFile image, ulong offset, ulong address, int length, out int step)
    {
        if (context.Host.TryAcquire(new DmaAddress(address), length, forWrite: true, out DmaPiece piece))
        {
            using (piece)
            {
                // SAFETY: the piece is pinned and at least step bytes long until it is disposed.
                step = Math.Min(length, piece.Length);
                return step <= 0 ? NvmeStatus.DataTransferError : ReadStatus(image.Read(piece.Pointer, step, offset));
            }
        }

        step = Math.Min(length, CommandContext.BounceSize);
        Errno errno = image.Read(BouncePointer(context), step, offset);
        if (errno != Errno.None)
            return ReadStatus(errno);
        return context.Host.Write(new DmaAddress(address), context.Bounce.AsSpan(0, step)) ? NvmeStatus.Success : NvmeStatus.DataTransferError;
    }

    private static NvmeStatus WritePiece(CommandContext context, ImageFile image, ulong offset, ulong address, int length, out int step)
    {
        if (context.Host.TryAcquire(new DmaAddress(address), length, forWrite: false, out DmaPiece piece))
        {
            using (piece)
            {
                // SAFETY: as in ReadPiece.
                step = Math.Min(length, piece.Length);
                return step <= 0 ? NvmeStatus.DataTransferError : WriteStatus(image.Write(piece.Pointer, step, offset));
            }
        }

        step = Math.Min(length, CommandContext.BounceSize);
        return context.Host.Read(new DmaAddress(address), context.Bounce.AsSpan(0, step))
            ? WriteStatus(image.Write(BouncePointer(context), step, offset))
            : NvmeStatus.DataTransferError;
    }

    // SAFETY: the array was allocated pinned.
    private static byte* BouncePointer(CommandContext context) => (byte*)Marshal.UnsafeAddrOfPinnedArrayElement(context.Bounce, 0);
}
