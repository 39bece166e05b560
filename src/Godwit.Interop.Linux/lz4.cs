using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; lz4.h

/// <summary>lz4.h: LZ4 blocks. The library may be absent; <see cref="IsPresent"/> first.</summary>
public static unsafe partial class lz4
{
    private const string Library = "liblz4.so.1";

    /// <summary>Whether the library can be loaded; any thread.</summary>
    public static bool IsPresent { get; } = NativeLibrary.TryLoad(Library, out _);

    /// <summary>Returns the bytes written, or 0 when they do not fit.</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int LZ4_compress_default(byte* source, byte* destination, int sourceSize, int capacity);

    /// <summary>Returns the bytes written, never more than <paramref name="capacity"/>, or less than 0 for data that is no block.</summary>
    [LibraryImport(Library, SetLastError = true)]
    public static partial int LZ4_decompress_safe(byte* source, byte* destination, int sourceSize, int capacity);
}
