using System.Diagnostics;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>A piece of a region whose writes go to an eventfd, and their value to shared memory if there is some.</summary>
/// <param name="Offset">In the region.</param>
/// <param name="Size">Bytes of the write that this is for: 1, 2, 4 or 8; 0 for any.</param>
/// <param name="Bell">The eventfd.</param>
/// <param name="Shadow">Where the value goes, or null.</param>
/// <param name="ShadowOffset">Where in it; a multiple of <paramref name="Size"/>.</param>
/// <param name="Match">The only value that this is for, or null for any.</param>
internal sealed record IoEvent(ulong Offset, ulong Size, EventFd Bell, MemoryMapping? Shadow, ulong ShadowOffset, ulong? Match)
{
    /// <summary>Whether a write of <paramref name="data"/> at <see cref="Offset"/> is for this.</summary>
    public bool Takes(ReadOnlySpan<byte> data) =>
        (Size == 0 || Size == (ulong)data.Length) && (Match is not { } wanted || wanted == ValueOf(data));

    /// <summary>Does a write that this takes.</summary>
    /// <exception cref="ObjectDisposedException">The connection has been closed here meanwhile.</exception>
    public void Write(ReadOnlySpan<byte> data)
    {
        if (Shadow is not null)
            Store(Shadow, data);
        Bell.Signal();
    }

    private static ulong ValueOf(ReadOnlySpan<byte> data)
    {
        Span<byte> wide = stackalloc byte[sizeof(ulong)];
        wide.Clear();
        data.CopyTo(wide);
        return BitConverter.ToUInt64(wide);
    }

    private unsafe void Store(MemoryMapping shadow, ReadOnlySpan<byte> data)
    {
        bool added = false;
        try
        {
            shadow.DangerousAddRef(ref added);
            // SAFETY: offset and size were checked to lie inside the mapping and to be aligned; the file is sealed against shrinking, so the
            // memory is there; the reference keeps it mapped. One store, because the device reads it at the same time.
            byte* place = shadow.Address + ShadowOffset;
            ulong value = ValueOf(data);
            switch (Size)
            {
                case 1:
                    Volatile.Write(ref *place, (byte)value);
                    break;
                case 2:
                    Volatile.Write(ref *(ushort*)place, (ushort)value);
                    break;
                case 4:
                    Volatile.Write(ref *(uint*)place, (uint)value);
                    break;
                case 8:
                    Volatile.Write(ref *(ulong*)place, value);
                    break;
                default:
                    throw new UnreachableException();
            }
        }
        finally
        {
            if (added)
                shadow.DangerousRelease();
        }
    }
}
