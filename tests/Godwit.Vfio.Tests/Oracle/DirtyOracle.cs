using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// Knows of every page when it was written last and when it was transferred last, from the device itself and not from any log, and judges the
/// invariant: what was written after its last transfer began is marked.
/// </summary>
internal sealed class DirtyOracle
{
    private readonly long[] _written = new long[ModelBoard.RamPages];
    private readonly long[] _sent = new long[ModelBoard.RamPages];
    private readonly GuestRam _ram;
    private long _sequence;

    public DirtyOracle(ModelBoard board, ModelDevice device) : this(board) => device.Wrote = Wrote;

    public DirtyOracle(ModelBoard board) => _ram = board.Ram;

    /// <summary>A DMA has written a page.</summary>
    public void Wrote(RamPage page) => Volatile.Write(ref _written[page.Index], Interlocked.Increment(ref _sequence));

    /// <summary>DMA writes seen.</summary>
    public long Writes => Volatile.Read(ref _sequence);

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

    /// <summary>When each page was written last, now.</summary>
    public long[] Snapshot() => (long[])_written.Clone();

    /// <summary>The first page whose write, as of <paramref name="written"/>, has neither been transferred nor is marked; null when there is none.</summary>
    public string? FindLost(long[] written)
    {
        var marks = new ulong[ModelBoard.RamPages / 64];
        _ram.Dirty.Drain(default, marks);
        _ram.Dirty.Restore(default, marks);
        for (ulong page = 0; page < ModelBoard.RamPages; page++)
        {
            bool marked = (marks[page / 64] >> (int)(page % 64) & 1) != 0;
            if (!marked && _sent[page] < written[page])
                return $"RAM page {page} (GPA page 0x{ModelBoard.GpaOf(new RamPage(page)):x}) was written by DMA {written[page]}, transferred as of {_sent[page]}, and is not marked";
        }

        return null;
    }
}
