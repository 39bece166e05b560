using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// Knows of every page when it was written last and when it was transferred last, from the device itself and not from any log, and judges the
/// invariant: what was written after its last transfer began is marked.
/// </summary>
internal sealed class DirtyOracle
{
    private readonly long[] _written = new long[ModelBoard.RamPages];
    private readonly long[] _before = new long[ModelBoard.RamPages];
    private readonly long[] _sent = new long[ModelBoard.RamPages];
    private readonly ulong[] _marks = new ulong[ModelBoard.RamPages / 64];
    private readonly GuestRam _ram;
    private long _sequence;

    public DirtyOracle(ModelBoard board)
    {
        _ram = board.Ram;
        Wrote = page => Volatile.Write(ref _written[page.Index], Interlocked.Increment(ref _sequence));
    }

    /// <summary>To be told of each page that a DMA writes.</summary>
    public Action<RamPage> Wrote { get; }

    /// <summary>DMA writes seen.</summary>
    public long Writes => Volatile.Read(ref _sequence);

    /// <summary>Sees what a device writes from now on.</summary>
    public void Watch(ModelDevice device) => device.Wrote = Wrote;

    /// <summary>A migration begins: nothing has been transferred.</summary>
    public void Begin() => Array.Fill(_sent, -1);

    /// <summary>Transfers the marked pages among 64 from <paramref name="first"/>, as the engine does: takes the marks, then reads the pages.</summary>
    public void Transfer(ulong first, Action? between = null)
    {
        Span<ulong> word = stackalloc ulong[1];
        _ram.Dirty.Drain(new RamPage(first), word);
        between?.Invoke();
        for (int bit = 0; bit < 64; bit++)
        {
            if ((word[0] >> bit & 1) != 0)
                _sent[first + (ulong)bit] = Volatile.Read(ref _written[first + (ulong)bit]);
        }
    }

    /// <summary>Remembers when each page was written last, as of now.</summary>
    public void BeginSync() => _written.CopyTo(_before, 0);

    /// <summary>
    /// The first page that was written before <see cref="BeginSync"/> and has neither been transferred since nor is marked; null when there is
    /// none.
    /// </summary>
    public string? FindLost()
    {
        _ram.Dirty.Drain(default, _marks);
        _ram.Dirty.Restore(default, _marks);
        for (ulong page = 0; page < ModelBoard.RamPages; page++)
        {
            if (_sent[page] < _before[page] && (_marks[page / 64] >> (int)(page % 64) & 1) == 0)
                return $"RAM page {page} (GPA page 0x{ModelBoard.GpaOf(new RamPage(page)):x}) was written by DMA {_before[page]}, transferred as of {_sent[page]}, and is not marked";
        }

        return null;
    }
}
