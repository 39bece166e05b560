using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; zstd.h

/// <summary>zstd.h: Zstandard frames. The library may be absent; <see cref="IsPresent"/> first.</summary>
public static unsafe partial class zstd
{
    private const string Library = "libzstd.so.1";

    /// <summary>Whether the library can be loaded; any thread.</summary>
    public static bool IsPresent { get; } = NativeLibrary.TryLoad(Library, out _);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial void* ZSTD_createCCtx();

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nuint ZSTD_freeCCtx(void* context);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nuint ZSTD_compressCCtx(
        ZstdCompressor context, void* destination, nuint capacity, void* source, nuint sourceSize, int level);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial void* ZSTD_createDCtx();

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nuint ZSTD_freeDCtx(void* context);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial nuint ZSTD_decompressDCtx(ZstdDecompressor context, void* destination, nuint capacity, void* source, nuint sourceSize);

    [LibraryImport(Library, SetLastError = true)]
    internal static partial uint ZSTD_isError(nuint code);
}

/// <summary>A ZSTD_CCtx. For one thread at a time.</summary>
public sealed unsafe class ZstdCompressor : SafeHandle
{
    /// <summary>Creates one.</summary>
    /// <exception cref="IOException">There is no memory for it.</exception>
    public ZstdCompressor() : base(0, ownsHandle: true)
    {
        SetHandle((nint)zstd.ZSTD_createCCtx());
        if (IsInvalid)
            throw new IOException("No memory for a zstd compressor");
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Compresses at <paramref name="level"/>; returns the bytes written, or 0 when they do not fit.</summary>
    /// <remarks>The caller vouches for both ranges, which nobody changes meanwhile.</remarks>
    public int Compress(byte* source, int length, byte* destination, int capacity, int level)
    {
        nuint written = zstd.ZSTD_compressCCtx(this, destination, (nuint)capacity, source, (nuint)length, level);
        return zstd.ZSTD_isError(written) != 0 ? 0 : (int)written;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        _ = zstd.ZSTD_freeCCtx((void*)handle);
        return true;
    }
}

/// <summary>A ZSTD_DCtx. For one thread at a time.</summary>
public sealed unsafe class ZstdDecompressor : SafeHandle
{
    /// <summary>Creates one.</summary>
    /// <exception cref="IOException">There is no memory for it.</exception>
    public ZstdDecompressor() : base(0, ownsHandle: true)
    {
        SetHandle((nint)zstd.ZSTD_createDCtx());
        if (IsInvalid)
            throw new IOException("No memory for a zstd decompressor");
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Decompresses; returns the bytes written, never more than <paramref name="capacity"/>, or -1 for data that is no frame.</summary>
    /// <remarks>The caller vouches for both ranges.</remarks>
    public int Decompress(byte* source, int length, byte* destination, int capacity)
    {
        nuint written = zstd.ZSTD_decompressDCtx(this, destination, (nuint)capacity, source, (nuint)length);
        return zstd.ZSTD_isError(written) != 0 ? -1 : (int)written;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        _ = zstd.ZSTD_freeDCtx((void*)handle);
        return true;
    }
}
