using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>Compresses and decompresses pages. For one thread at a time; contexts are made at first use.</summary>
internal sealed unsafe class PageCodec : IDisposable
{
    // The fastest of the regular levels: a migration waits for its pages.
    private const int ZstdLevel = 1;

    private ZstdCompressor? _compressor;
    private ZstdDecompressor? _decompressor;

    /// <summary>Throws when the library for <paramref name="compression"/> is not on this host.</summary>
    /// <exception cref="IOException">It is not; the text names it and its package.</exception>
    internal static void Require(PageCompression compression)
    {
        switch (compression)
        {
            case PageCompression.Lz4 when !lz4.IsPresent:
                throw new IOException("Compression lz4 needs liblz4.so.1, which is not on this host (Debian: liblz4-1)");
            case PageCompression.Zstd when !zstd.IsPresent:
                throw new IOException("Compression zstd needs libzstd.so.1, which is not on this host (Debian: libzstd1)");
        }
    }

    /// <summary>Returns the bytes written, or 0 when they do not fit.</summary>
    /// <remarks>The caller vouches for both ranges, which nobody changes meanwhile.</remarks>
    // SAFETY: both ranges are the caller's, of the lengths given; neither library reads or writes beyond them.
    internal int Compress(PageCompression compression, byte* source, int length, byte* destination, int capacity) => compression switch
    {
        PageCompression.Lz4 => lz4.LZ4_compress_default(source, destination, length, capacity),
        _ => (_compressor ??= new ZstdCompressor()).Compress(source, length, destination, capacity, ZstdLevel),
    };

    /// <summary>Fills <paramref name="length"/> bytes; false for data that does not give exactly so many.</summary>
    /// <remarks>The data may be anybody's: neither library writes more than the length.</remarks>
    internal bool Decompress(PageCompression compression, ReadOnlySpan<byte> data, byte* destination, int length)
    {
        // SAFETY: the data is pinned for the call and read for its own length; the caller has length bytes at the destination, and both libraries bound
        // what they write by it.
        fixed (byte* source = data)
        {
            int written = compression switch
            {
                PageCompression.Lz4 => lz4.LZ4_decompress_safe(source, destination, data.Length, length),
                _ => (_decompressor ??= new ZstdDecompressor()).Decompress(source, data.Length, destination, length),
            };
            return written == length;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _compressor?.Dispose();
        _decompressor?.Dispose();
    }
}
