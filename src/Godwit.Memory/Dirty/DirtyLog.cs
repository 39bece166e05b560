using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace Godwit.Memory;

/// <summary>
/// The machine's migration bitmap, one bit per <see cref="RamPage"/>. Writers <b>write first and mark afterwards</b>; the migration
/// drains first and reads the page afterwards. With a full fence on both sides a page written at any time is either sent with the
/// write in it or marked again.
/// </summary>
/// <remarks>
/// Why the fences: a writer stores data, fences, and then may find the bit set and leave it. The drain's exchange of that bit comes
/// later, so what is read after the drain has the data. Without the writer's fence the bit could be read before the store is visible.
/// While recording is off a writer has no fence at all; <see cref="Start"/> makes up for it with one fence in every thread of the
/// process after switching on and before the bits that it sets can be drained.
/// <see cref="Start"/> and <see cref="Stop"/> exclude each other; everything else may be called from any thread at once.
/// </remarks>
[SuppressMessage("Design", "CA1001", Justification = "Freed by the owning GuestRam")]
public sealed class DirtyLog
{
    private readonly Lock _switch = new();
    private readonly DirtyCounters _marked = new();
    private DirtyBitmap? _bitmap; // allocated at the first Start, then kept: writers may still hold it
    private volatile bool _enabled;
    private bool _disposed;

    internal DirtyLog()
    {
    }

    /// <summary>Whether writes are recorded. Off costs one volatile read per write.</summary>
    public bool Enabled => _enabled;

    /// <summary>Whether it has ever recorded; the number of pages is fixed from then on.</summary>
    internal bool Sized => Volatile.Read(ref _bitmap) is not null;

    /// <summary>Pages in the machine, fixed from the first <see cref="Start"/> on. Set by <see cref="GuestRam.Add"/>.</summary>
    public ulong PageCount { get; internal set; }

    /// <summary>Begins recording with every page of RAM marked. The counters start at 0.</summary>
    /// <exception cref="InvalidOperationException">Already recording, or the machine has no RAM.</exception>
    public void Start() => Begin(allMarked: true);

    /// <summary>Begins recording with no page marked. Only before anybody writes: a write that is under way may be missed.</summary>
    /// <exception cref="InvalidOperationException">Already recording, or the machine has no RAM.</exception>
    internal void StartClean() => Begin(allMarked: false);

    private void Begin(bool allMarked)
    {
        lock (_switch)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_enabled)
                throw new InvalidOperationException("The dirty log is already recording");
            if (PageCount == 0)
                throw new InvalidOperationException("The machine has no RAM to record");
            if (_bitmap is null)
                Volatile.Write(ref _bitmap, new DirtyBitmap(PageCount));
            _marked.Reset();
            _enabled = true;
            // After this, a write whose writer still saw the log off is visible to everybody, and the marks below cover it.
            Interlocked.MemoryBarrierProcessWide();
            if (allMarked)
                _bitmap.SetAll();
        }
    }

    /// <summary>Ends recording and forgets the bits. Does nothing when not recording.</summary>
    public void Stop()
    {
        lock (_switch)
        {
            if (!_enabled)
                return;
            _enabled = false;
            // A writer that saw the log on may mark after this; the bit is in nobody's way, the next Start marks everything.
            _bitmap!.Clear();
        }
    }

    /// <summary>Records that <paramref name="count"/> pages from <paramref name="first"/> were written. Call after the write. Allocation-free.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The pages are not all RAM (noticed only while recording).</exception>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Mark(RamPage first, ulong count, DirtySource source)
    {
        if (_enabled)
            MarkRange(first, count, source);
    }

    /// <summary>Records many pages: bit 0 of <c>bits[0]</c> is <paramref name="first"/>; bits past <paramref name="count"/> are ignored.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The pages are not all RAM, or fewer bits are given (noticed only while recording).</exception>
    public void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count, DirtySource source)
    {
        if (!_enabled)
            return;
        Interlocked.MemoryBarrier();
        _marked.Add(source, _bitmap!.Or(first.Index, bits, count));
    }

    /// <summary>Records that <paramref name="pages"/> were written, in any order. Call after the writes. Allocation-free; cheaper for many than one by one.</summary>
    /// <exception cref="ArgumentOutOfRangeException">One of the pages is no RAM (noticed only while recording).</exception>
    public void Mark(ReadOnlySpan<RamPage> pages, DirtySource source)
    {
        if (!_enabled)
            return;
        // One fence for all: see MarkRange.
        Interlocked.MemoryBarrier();
        _marked.Add(source, _bitmap!.Set(pages));
    }

    /// <summary>
    /// Moves marks from <paramref name="first"/> (multiple of 64) into <paramref name="words"/>; returns set bits. Fully fenced before
    /// returning. Words past the last page, and all words while not recording, come out 0.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="first"/> is no multiple of 64 or no RAM.</exception>
    public ulong Drain(RamPage first, Span<ulong> words)
    {
        if (!_enabled)
        {
            words.Clear();
            return 0;
        }

        ulong count = _bitmap!.Drain(first.Index, words);
        Interlocked.MemoryBarrier();
        return count;
    }

    /// <summary>
    /// Moves marks out from <paramref name="next"/> on, as runs of neighbouring pages in ascending order; <paramref name="next"/> moves on to
    /// where the following call begins, and is the number of pages of RAM at the end. Returns how many runs were written, and is fully fenced
    /// before. While not recording there are none. Allocation-free.
    /// </summary>
    /// <param name="next">A multiple of 16384, or the number of pages of RAM.</param>
    /// <param name="enough">Pages after which to stop; at most 16383 more are handed out.</param>
    /// <param name="runs">At least <see cref="DirtyBitmap.MinRuns"/> long.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="next"/> is no such page.</exception>
    /// <exception cref="ArgumentException"><paramref name="runs"/> is too short.</exception>
    public int Drain(ref RamPage next, ulong enough, Span<DirtyRun> runs)
    {
        if (!_enabled)
        {
            next = new RamPage(PageCount);
            return 0;
        }

        ulong page = next.Index;
        int count = _bitmap!.Drain(ref page, enough, runs);
        next = new RamPage(page);
        Interlocked.MemoryBarrier();
        return count;
    }

    /// <summary>
    /// Gives back drained marks that were not sent, from the same <paramref name="first"/>. Not counted for any source. Ignored while
    /// not recording.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="first"/> is no RAM.</exception>
    public void Restore(RamPage first, ReadOnlySpan<ulong> words)
    {
        if (!_enabled)
            return;
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(first.Index, PageCount, nameof(first));
        _bitmap!.Or(first.Index, words, Math.Min((ulong)words.Length * 64, PageCount - first.Index));
    }

    /// <summary>Pages marked now; 0 while not recording.</summary>
    public ulong Count() => _enabled ? _bitmap!.Count() : 0;

    /// <summary>Pages newly marked on behalf of <paramref name="source"/> since <see cref="Start"/> (a page already marked counts once).</summary>
    public long MarkedBy(DirtySource source)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)source, (uint)DirtySource.Vmm, nameof(source));
        return _marked.Sum(source);
    }

    /// <summary>Frees the bitmap. Called by the owning <see cref="GuestRam"/> when nobody writes any more.</summary>
    internal void Free()
    {
        lock (_switch)
        {
            _disposed = true;
            _enabled = false;
            _bitmap?.Dispose();
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private void MarkRange(RamPage first, ulong count, DirtySource source)
    {
        // The write must be visible before a set bit is found and left alone; see the remarks of the class.
        Interlocked.MemoryBarrier();
        DirtyBitmap bitmap = _bitmap!;
        _marked.Add(source, count == 1 ? (bitmap.Set(first.Index) ? 1UL : 0) : bitmap.SetRange(first.Index, count));
    }
}
