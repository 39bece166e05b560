namespace Godwit.Migration;

/// <summary>How pages are compressed on their way. The numbers are the wire's.</summary>
public enum PageCompression
{
    /// <summary>Not at all.</summary>
    None = 0,

    /// <summary>LZ4 blocks, with Debian's liblz4.</summary>
    Lz4 = 1,

    /// <summary>Zstandard frames, with Debian's libzstd.</summary>
    Zstd = 2,
}
