namespace Godwit.Memory;

/// <summary>Who wrote a page. Kept apart only to show rates; the bits land in one bitmap.</summary>
public enum DirtySource
{
    /// <summary>A guest CPU.</summary>
    Vcpu,

    /// <summary>A passthrough device, by its own DMA.</summary>
    Device,

    /// <summary>The VMM on behalf of the guest: emulated devices, status writes, messages.</summary>
    Vmm,
}

/// <summary>
/// The machine's migration bitmap, one bit per <see cref="RamPage"/>. Writers <b>write first and mark afterwards</b>; the migration
/// drains first and reads the page afterwards. With a full fence on both sides a page written at any time is either sent with the
/// write in it or marked again.
/// </summary>
public sealed class DirtyLog
{
    internal DirtyLog() { }

    /// <summary>Whether writes are recorded. Off costs one volatile read per write.</summary>
    public bool Enabled => throw new NotImplementedException();

    /// <summary>Begins recording with every page of RAM marked. Throws <see cref="InvalidOperationException"/> when already recording.</summary>
    public void Start() => throw new NotImplementedException();

    /// <summary>Ends recording and forgets the bits. Does nothing when not recording.</summary>
    public void Stop() => throw new NotImplementedException();

    /// <summary>Records that <paramref name="count"/> pages from <paramref name="first"/> were written. Call after the write. Allocation-free.</summary>
    public void Mark(RamPage first, ulong count, DirtySource source) => throw new NotImplementedException();

    /// <summary>Records many pages: bit 0 of <c>bits[0]</c> is <paramref name="first"/>.</summary>
    public void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count, DirtySource source) => throw new NotImplementedException();

    /// <summary>Moves marks from <paramref name="first"/> (multiple of 64) into <paramref name="words"/>; returns set bits. Fully fenced before returning.</summary>
    public ulong Drain(RamPage first, Span<ulong> words) => throw new NotImplementedException();

    /// <summary>Gives back drained marks that were not sent. Not counted for any source.</summary>
    public void Restore(RamPage first, ReadOnlySpan<ulong> words) => throw new NotImplementedException();

    /// <summary>Pages marked now.</summary>
    public ulong Count() => throw new NotImplementedException();

    /// <summary>Pages newly marked on behalf of <paramref name="source"/> since <see cref="Start"/> (a page already marked counts once).</summary>
    public long MarkedBy(DirtySource source) => throw new NotImplementedException();
}
