namespace Godwit.Memory.Tests.Dirty;

public sealed class DirtyLogTests : IDisposable
{
    private const ulong BlockSize = 2 << 20;
    private const ulong Pages = 512;
    private readonly GuestRam _ram = new();

    public DirtyLogTests()
    {
        _ram.Add("a", BlockSize);
        _ram.Add("b", BlockSize);
    }

    private DirtyLog Log => _ram.Dirty;

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void Start_marks_everything_and_counts_it_for_nobody()
    {
        Log.Start();
        Assert.True(Log.Enabled);
        Assert.Equal(2 * Pages, Log.Count());
        foreach (DirtySource source in Enum.GetValues<DirtySource>())
            Assert.Equal(0, Log.MarkedBy(source));
    }

    [Fact]
    public void Start_twice_is_refused()
    {
        Log.Start();
        Assert.Throws<InvalidOperationException>(Log.Start);
    }

    [Fact]
    public void Start_without_RAM_is_refused()
    {
        using var empty = new GuestRam();
        Assert.Throws<InvalidOperationException>(empty.Dirty.Start);
    }

    [Fact]
    public void While_off_nothing_is_recorded()
    {
        Log.Mark(new RamPage(3), 5, DirtySource.Vcpu);
        Log.Mark(new RamPage(3), [ulong.MaxValue], 64, DirtySource.Vcpu);
        Log.Restore(new RamPage(0), [1]);
        ulong[] words = [9, 9];
        Assert.Equal(0UL, Log.Drain(new RamPage(0), words));
        Assert.Equal([0UL, 0UL], words);
        Assert.Equal(0UL, Log.Count());
        Log.Stop();
    }

    [Fact]
    public void New_marks_are_counted_by_source_and_old_ones_are_not()
    {
        StartClear();
        Log.Mark(new RamPage(10), 3, DirtySource.Vcpu);
        Log.Mark(new RamPage(11), 1, DirtySource.Device);
        Log.Mark(new RamPage(12), 5, DirtySource.Device);
        Log.Mark(new RamPage(64), [0b1011], 3, DirtySource.Vmm);
        Assert.Equal(3, Log.MarkedBy(DirtySource.Vcpu));
        Assert.Equal(4, Log.MarkedBy(DirtySource.Device));
        Assert.Equal(2, Log.MarkedBy(DirtySource.Vmm));
        Assert.Equal(9UL, Log.Count());
    }

    [Fact]
    public void Restored_marks_are_back_but_not_counted()
    {
        StartClear();
        Log.Mark(new RamPage(900), 100, DirtySource.Device);
        var words = new ulong[20];
        Assert.Equal(100UL, Log.Drain(new RamPage(0), words));
        Assert.Equal(0UL, Log.Count());
        Log.Restore(new RamPage(0), words);
        Assert.Equal(100UL, Log.Count());
        Assert.Equal(100, Log.MarkedBy(DirtySource.Device));
    }

    [Fact]
    public void A_second_start_forgets_the_first()
    {
        StartClear();
        Log.Mark(new RamPage(0), 1, DirtySource.Vmm);
        Log.Stop();
        Assert.False(Log.Enabled);
        Log.Start();
        Assert.Equal(2 * Pages, Log.Count());
        Assert.Equal(0, Log.MarkedBy(DirtySource.Vmm));
    }

    [Fact]
    public void Pages_that_are_no_RAM_are_refused()
    {
        StartClear();
        Assert.Throws<ArgumentOutOfRangeException>(() => Log.Mark(new RamPage(2 * Pages), 1, DirtySource.Vmm));
        Assert.Throws<ArgumentOutOfRangeException>(() => Log.Mark(new RamPage(2 * Pages - 1), 2, DirtySource.Vmm));
        Assert.Throws<ArgumentOutOfRangeException>(() => Log.Restore(new RamPage(2 * Pages), [0]));
    }

    [Fact]
    public void Marking_and_draining_allocate_nothing()
    {
        StartClear();
        var words = new ulong[16];
        ulong[] bits = [5, 7, 9];
        Assert.Equal(0, Allocations.Of(Exercise));

        void Exercise()
        {
            Log.Mark(new RamPage(1), 1, DirtySource.Vcpu);
            Log.Mark(new RamPage(5), 300, DirtySource.Device);
            Log.Mark(new RamPage(7), bits, 150, DirtySource.Vmm);
            Log.Drain(new RamPage(0), words);
            Log.Restore(new RamPage(0), words);
            Log.Count();
            Log.MarkedBy(DirtySource.Vmm);
        }
    }

    /// <summary>
    /// The protocol itself: a writer stores an ever larger number in a page and marks; the reader drains, and only pages that were
    /// drained are read. At the end the reader's copy must be the last number of every page, though it never looked unasked.
    /// </summary>
    [Fact]
    public void A_write_is_either_in_the_copy_or_marked_again()
    {
        const int Rounds = 30_000;
        RamBlock block = _ram.Blocks[0];
        StartClear();
        var copy = new ulong[Pages];
        int left = 2;
        var writers = new Thread[2];
        for (int i = 0; i < writers.Length; i++)
        {
            int id = i;
            writers[i] = new Thread(() =>
            {
                Span<byte> bytes = stackalloc byte[8];
                for (ulong round = 1; round <= Rounds; round++)
                {
                    // Few pages, so that most bits are found set and the unfenced-looking path is taken.
                    ulong page = (round * 7 % 16) * 2 + (ulong)id;
                    BitConverter.TryWriteBytes(bytes, round);
                    block.Write(page << RamPage.Shift, bytes, DirtySource.Vcpu);
                }

                Interlocked.Decrement(ref left);
            });
            writers[i].Start();
        }

        var words = new ulong[8];
        var read = new byte[8];
        bool last;
        do
        {
            last = Volatile.Read(ref left) == 0;
            Log.Drain(new RamPage(0), words);
            for (int page = 0; page < 512; page++)
            {
                if ((words[page / 64] >> (page % 64) & 1) == 0)
                    continue;
                block.Read((ulong)page << RamPage.Shift, read);
                copy[page] = BitConverter.ToUInt64(read);
            }
        }
        while (!last);

        Assert.All(writers, writer => Assert.True(writer.Join(TimeSpan.FromMinutes(1))));
        for (ulong page = 0; page < Pages; page++)
        {
            block.Read(page << RamPage.Shift, read);
            Assert.Equal(BitConverter.ToUInt64(read), copy[page]);
        }
    }

    /// <summary>The fence in <see cref="DirtyLog.Mark(RamPage, ulong, DirtySource)"/>: a bit found set must not hide a write that the drain's reader misses.</summary>
    [Fact]
    public void A_set_bit_never_hides_a_write()
    {
        RamBlock block = _ram.Blocks[0];
        StartClear();
        var data = new byte[8];
        var copy = new byte[8];
        var words = new ulong[1];
        Log.Mark(new RamPage(0), 1, DirtySource.Vcpu);
        long lost = 0;
        Litmus.Run(
            round =>
            {
                BitConverter.TryWriteBytes(data, (long)round);
                block.Write(0, data, DirtySource.Vcpu);
            },
            _ => Send(),
            round =>
            {
                Send();
                if (BitConverter.ToInt64(copy) != round)
                    lost++;
                Log.Mark(new RamPage(0), 1, DirtySource.Vcpu);
            });
        Assert.Equal(0, lost);

        void Send()
        {
            if (Log.Drain(new RamPage(0), words) != 0)
                block.Read(0, copy);
        }
    }

    private void StartClear()
    {
        Log.Start();
        Log.Drain(new RamPage(0), new ulong[16]);
    }
}
