namespace Godwit.Memory;

/// <summary>
/// One bit per page over a fixed number of pages, in native memory aligned to 64 bytes. All members but <see cref="Dispose"/> may be
/// called from any thread at once: setting is an atomic OR, draining an atomic exchange, so no bit is lost or seen twice.
/// </summary>
public sealed unsafe class DirtyBitmap : IDisposable
{
    /// <summary>Creates a bitmap of <paramref name="pageCount"/> clear bits.</summary>
    public DirtyBitmap(ulong pageCount) => throw new NotImplementedException();

    /// <summary>Pages covered.</summary>
    public ulong PageCount => throw new NotImplementedException();

    /// <summary>Sets one bit; true when it was clear before.</summary>
    public bool Set(ulong page) => throw new NotImplementedException();

    /// <summary>Whether the bit is set now.</summary>
    public bool IsSet(ulong page) => throw new NotImplementedException();

    /// <summary>Sets <paramref name="count"/> bits from <paramref name="first"/>, by whole words; returns how many were clear before.</summary>
    public ulong SetRange(ulong first, ulong count) => throw new NotImplementedException();

    /// <summary>
    /// ORs <paramref name="count"/> bits in, bit 0 of <c>bits[0]</c> being page <paramref name="first"/> (any alignment); returns how
    /// many were clear before.
    /// </summary>
    public ulong Or(ulong first, ReadOnlySpan<ulong> bits, ulong count) => throw new NotImplementedException();

    /// <summary>
    /// Moves the words from page <paramref name="firstPage"/> (a multiple of 64) into <paramref name="words"/>, clearing them here; returns the number of set bits.
    /// </summary>
    public ulong Drain(ulong firstPage, Span<ulong> words) => throw new NotImplementedException();

    /// <summary>Number of set bits, a snapshot word by word.</summary>
    public ulong Count() => throw new NotImplementedException();

    /// <inheritdoc/>
    public void Dispose() => throw new NotImplementedException();
}
