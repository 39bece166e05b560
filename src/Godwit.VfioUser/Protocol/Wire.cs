using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.VfioUser;

/// <summary>Reads and writes fixed parts of messages, always by copy and never past the end.</summary>
internal static class Wire
{
    /// <summary>Takes a <typeparamref name="T"/> from the front of <paramref name="source"/>, leaving the rest in <paramref name="rest"/>.</summary>
    public static bool TryTake<T>(ReadOnlySpan<byte> source, out T value, out ReadOnlySpan<byte> rest)
        where T : unmanaged
    {
        if (!MemoryMarshal.TryRead(source, out value))
        {
            rest = default;
            return false;
        }
        rest = source[Unsafe.SizeOf<T>()..];
        return true;
    }

    /// <summary>Writes <paramref name="value"/> to the front of <paramref name="destination"/> and returns its size.</summary>
    public static int Put<T>(Span<byte> destination, in T value)
        where T : unmanaged
    {
        MemoryMarshal.Write(destination, value);
        return Unsafe.SizeOf<T>();
    }

    /// <summary>Bytes of a dirty bitmap: whole 64-bit words (linux/vfio.h, DMA_LOGGING_REPORT).</summary>
    public static ulong BitmapBytes(ulong length, ulong pageSize)
    {
        ulong pages = length / pageSize + (length % pageSize == 0 ? 0u : 1u);
        return (pages / 64 + (pages % 64 == 0 ? 0u : 1u)) * sizeof(ulong);
    }
}
