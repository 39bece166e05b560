using Godwit.Interop.Linux;

namespace Godwit.Memory.Tests.Ram;

public sealed unsafe class GuestRamTests : IDisposable
{
    private const ulong Unit = RamBlock.SizeUnit;
    private readonly GuestRam _ram = new();

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void Pages_are_numbered_over_the_blocks_in_order()
    {
        RamBlock low = _ram.Add("low", Unit);
        RamBlock high = _ram.Add("high", 2 * Unit);
        Assert.Equal([low, high], _ram.Blocks);
        Assert.Equal(new RamPage(0), low.FirstPage);
        Assert.Equal(new RamPage(512), high.FirstPage);
        Assert.Equal(3 * 512UL, _ram.PageCount);

        Assert.True(_ram.TryResolve(new RamPage(511), out RamBlock block, out ulong offset));
        Assert.Same(low, block);
        Assert.Equal(511UL * 4096, offset);
        Assert.True(_ram.TryResolve(new RamPage(513), out block, out offset));
        Assert.Same(high, block);
        Assert.Equal(4096UL, offset);
        Assert.False(_ram.TryResolve(new RamPage(3 * 512), out _, out _));
        Assert.False(_ram.TryResolve(new RamPage(ulong.MaxValue), out _, out _));
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(4096UL)]
    [InlineData(Unit + 1)]
    [InlineData(GuestRam.MaxTotalSize + Unit)]
    [InlineData(ulong.MaxValue - Unit + 1)]
    public void Impossible_sizes_are_refused_by_name(ulong size)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => _ram.Add("dimm0", size));
        Assert.Contains("dimm0", error.Message, StringComparison.Ordinal);
        Assert.Empty(_ram.Blocks);
    }

    [Fact]
    public void Impossible_names_are_refused()
    {
        _ram.Add("a", Unit);
        Assert.Throws<ArgumentException>(() => _ram.Add("a", Unit));
        Assert.Throws<ArgumentException>(() => _ram.Add("", Unit));
        Assert.Throws<ArgumentException>(() => _ram.Add("x\0y", Unit));
        Assert.Throws<ArgumentException>(() => _ram.Add(new string('é', 128), Unit));
        Assert.Equal(255, _ram.Add(new string('n', 255), Unit).Name.Length);
    }

    [Fact]
    public void No_block_is_added_after_recording_began()
    {
        _ram.Add("a", Unit);
        _ram.Dirty.Start();
        _ram.Dirty.Stop();
        Assert.Throws<InvalidOperationException>(() => _ram.Add("b", Unit));
    }

    [Fact]
    public void The_file_can_be_mapped_by_others_and_is_sealed()
    {
        RamBlock block = _ram.Add("a", Unit);
        using FileDescriptor handedOut = block.File.Duplicate();
        using MemoryMapping peer = MemoryMapping.MapShared(handedOut, 0, Unit, writable: true);
        peer.Address[5000] = 42;
        var read = new byte[1];
        block.Read(5000, read);
        Assert.Equal(42, read[0]);

        Assert.Equal(-1, unistd.ftruncate(handedOut, 4096));
        int seals = unistd.fcntl(handedOut, unistd.F_GET_SEALS, 0);
        Assert.Equal(unistd.F_SEAL_SHRINK | unistd.F_SEAL_GROW | unistd.F_SEAL_SEAL, seals);
    }

    [Fact]
    public void Copies_of_any_length_and_alignment_come_back() => Seeded.Run(20, random =>
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("a", Unit);
        var mirror = new byte[Unit];
        for (int step = 0; step < 300; step++)
        {
            int length = random.Next(random.Next(2) == 0 ? 40 : 9000);
            int offset = random.Next((int)Unit - length + 1);
            var data = new byte[length];
            if (random.Next(2) == 0)
            {
                random.NextBytes(data);
                data.CopyTo(mirror, offset);
                block.Write((ulong)offset, data, DirtySource.Vmm);
            }
            else
            {
                block.Read((ulong)offset, data);
                Assert.True(mirror.AsSpan(offset, length).SequenceEqual(data));
            }
        }

        var all = new byte[Unit];
        block.Read(0, all);
        Assert.Equal(mirror, all);
    });

    [Fact]
    public void Nothing_outside_a_block_can_be_touched()
    {
        RamBlock block = _ram.Add("a", Unit);
        Assert.Throws<ArgumentOutOfRangeException>(() => block.Read(Unit, new byte[1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => block.Read(Unit - 1, new byte[2]));
        Assert.Throws<ArgumentOutOfRangeException>(() => block.Write(ulong.MaxValue, new byte[2], DirtySource.Vmm));
        block.Read(Unit, []);
    }

    [Fact]
    public void Writes_mark_exactly_their_pages()
    {
        _ram.Add("a", Unit);
        RamBlock block = _ram.Add("b", Unit);
        _ram.Dirty.Start();
        var words = new ulong[16];
        _ram.Dirty.Drain(new RamPage(0), words);
        block.Write(4095, [1, 2], DirtySource.Device);
        block.Write(3 * 4096, [1], DirtySource.Vcpu);
        block.Write(9 * 4096, [], DirtySource.Vcpu);
        Assert.Equal(3UL, _ram.Dirty.Drain(new RamPage(512), words));
        Assert.Equal(0b1011UL, words[0]);
        Assert.Equal(2, _ram.Dirty.MarkedBy(DirtySource.Device));
        Assert.Equal(1, _ram.Dirty.MarkedBy(DirtySource.Vcpu));
    }

    [Fact]
    public void Aligned_words_never_tear()
    {
        RamBlock block = _ram.Add("a", Unit);
        int stop = 0;
        var writer = new Thread(() =>
        {
            var ones = new byte[64];
            ones.AsSpan().Fill(0xFF);
            var zeros = new byte[64];
            while (Volatile.Read(ref stop) == 0)
            {
                block.Write(64, ones, DirtySource.Vmm);
                block.Write(64, zeros, DirtySource.Vmm);
                block.Write(128, ones.AsSpan(0, 4), DirtySource.Vmm);
                block.Write(128, zeros.AsSpan(0, 4), DirtySource.Vmm);
                block.Write(4096, ones.AsSpan(0, 8), DirtySource.Vmm);
                block.Write(4096, zeros.AsSpan(0, 8), DirtySource.Vmm);
            }
        });
        writer.Start();
        try
        {
            var read = new byte[64];
            for (int i = 0; i < 200_000; i++)
            {
                block.Read(64, read);
                for (int word = 0; word < 8; word++)
                    Assert.True(BitConverter.ToUInt64(read, word * 8) is 0 or ulong.MaxValue);
                block.Read(128, read.AsSpan(0, 4));
                Assert.True(BitConverter.ToUInt32(read) is 0 or uint.MaxValue);
                block.Read(4096, read.AsSpan(0, 8));
                Assert.True(BitConverter.ToUInt64(read) is 0 or ulong.MaxValue);
            }
        }
        finally
        {
            Volatile.Write(ref stop, 1);
            Assert.True(writer.Join(TimeSpan.FromSeconds(30)));
        }
    }

    [Fact]
    public void After_dispose_accesses_fail_instead_of_crashing()
    {
        RamBlock block = _ram.Add("a", Unit);
        int denied = 0;
        using var running = new ManualResetEventSlim();
        var reader = new Thread(() =>
        {
            var data = new byte[4096];
            try
            {
                while (true)
                {
                    block.Read(0, data);
                    block.Write(8192, data, DirtySource.Vmm);
                    running.Set();
                }
            }
            catch (ObjectDisposedException)
            {
                denied = 1;
            }
        });
        reader.Start();
        Assert.True(running.Wait(TimeSpan.FromSeconds(30)));
        _ram.Dispose();
        Assert.True(reader.Join(TimeSpan.FromSeconds(30)));
        Assert.Equal(1, denied);
        Assert.Throws<ObjectDisposedException>(() => block.Pointer is null);
        Assert.Throws<ObjectDisposedException>(() => _ram.Add("b", Unit));
        Assert.Throws<ObjectDisposedException>(_ram.Dirty.Start);
    }
}
