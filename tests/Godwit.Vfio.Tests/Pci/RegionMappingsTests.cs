using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>Accesses through mappings, and the gate before them.</summary>
public sealed class RegionMappingsTests : IDisposable
{
    private const ulong Bytes = 0x3000;

    private readonly MemFd _file = MemFd.Create("region", Bytes);
    private readonly MemoryMapping _memory;
    private readonly RegionMappings _mappings = new();
    private readonly List<MemoryMapping> _mapped = [];

    public RegionMappingsTests() => _memory = MemoryMapping.MapShared(_file, 0, Bytes, writable: true);

    public void Dispose()
    {
        _mappings.Dispose();
        _memory.Dispose();
        _file.Dispose();
    }

    private unsafe Span<byte> Memory => new(_memory.Address, (int)Bytes);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public void Registers_of_every_width_are_read_and_written_and_nothing_beside_them(int width)
    {
        Map(new SparseArea(0x1000, 0x2000));
        Span<byte> value = BitConverter.GetBytes(0x8877_6655_4433_2211UL).AsSpan(0, width), read = stackalloc byte[width];
        Memory.Fill(0xEE);
        Assert.True(_mappings.TryWrite(0, 0x2FF8, value));
        Assert.True(Memory.Slice(0x2FF8, width).SequenceEqual(value));
        Assert.Equal(Bytes - (ulong)width, (ulong)Memory.Count((byte)0xEE));
        Assert.True(_mappings.TryRead(0, 0x2FF8, read));
        Assert.True(read.SequenceEqual(value));
    }

    [Fact]
    public void What_is_not_mapped_or_takes_more_than_one_access_is_left_to_others()
    {
        Map(new SparseArea(0x1000, 0x1000), new SparseArea(0x2000, 0x234));
        Span<byte> four = stackalloc byte[4];
        foreach ((int index, ulong offset, int length) in new (int, ulong, int)[]
        {
            (0, 0xFFC, 4), (0, 0x1002, 4), (0, 0x1001, 2), (0, 0x1000, 3), (0, 0x1000, 0), (0, 0x2234, 4), (0, 0x2230, 8), (0, ulong.MaxValue - 3, 4), (1, 0x1000, 4), (-1, 0x1000, 4), (99, 0, 4),
        })
        {
            byte[] data = new byte[length];
            Assert.False(_mappings.TryRead(index, offset, data), $"{length} bytes at 0x{offset:x} of {index}");
            Assert.False(_mappings.TryWrite(index, offset, data), $"{length} bytes at 0x{offset:x} of {index}");
        }

        Assert.True(_mappings.TryRead(0, 0x2230, four));
    }

    [Fact]
    public void It_is_closed_at_first_and_after_its_end()
    {
        byte[] four = new byte[4];
        _mappings.Map(0, [new SparseArea(0, Bytes)], Mapper);
        Assert.False(_mappings.TryRead(0, 0, four));
        _mappings.Open();
        Assert.True(_mappings.TryRead(0, 0, four));
        _mappings.Close();
        Assert.False(_mappings.TryWrite(0, 0, four));
        _mappings.Open();
        _mappings.Dispose();
        Assert.All(_mapped, m => Assert.True(m.IsClosed));
        _mappings.Open();
        Assert.False(_mappings.TryRead(0, 0, four));
    }

    /// <summary>A command register that is written while the device goes opens nothing that is about to be unmapped.</summary>
    [Fact]
    public void Its_end_comes_between_no_opening_and_the_next()
    {
        for (int i = 0; i < 300; i++)
        {
            using var mappings = new RegionMappings();
            mappings.Map(0, [new SparseArea(0, Bytes)], Mapper);
            using var began = new ManualResetEventSlim();
            bool stop = false;
            var opener = new Thread(() =>
            {
                began.Set();
                while (!Volatile.Read(ref stop))
                    mappings.Open();
            });
            opener.Start();
            began.Wait();
            mappings.Dispose();
            Volatile.Write(ref stop, true);
            opener.Join();
            Assert.False(mappings.TryRead(0, 0, new byte[4]), $"turn {i}");
        }
    }

    /// <summary>Also when it is not refused but the device has gone.</summary>
    [Fact]
    public void A_device_that_goes_while_its_areas_are_mapped_takes_the_others_back()
    {
        Assert.Throws<DeviceLostException>(() => _mappings.Map(2, [new SparseArea(0, 0x1000), new SparseArea(0x2000, 0x1000)],
            (SparseArea area, out MemoryMapping? mapping) => area.Offset == 0 ? Mapper(area, out mapping) : throw new DeviceLostException("gone")));
        Assert.True(Assert.Single(_mapped).IsClosed);
    }

    [Fact]
    public void An_access_allocates_nothing()
    {
        Map(new SparseArea(0, 0x1000), new SparseArea(0x2000, 0x1000));
        Assert.Equal(0, Allocations.Of(() =>
        {
            Span<byte> four = stackalloc byte[4];
            for (ulong offset = 0x2000; offset < Bytes; offset += 4)
            {
                _mappings.TryWrite(0, offset, four);
                _mappings.TryRead(0, offset, four);
            }
        }));
    }

    [Fact]
    public void One_area_that_cannot_be_mapped_takes_the_others_back()
    {
        DeviceRefusedException e = Assert.Throws<DeviceRefusedException>(() => _mappings.Map(2, [new SparseArea(0, 0x1000), new SparseArea(0x2000, 0x1000)],
            (SparseArea area, out MemoryMapping? mapping) =>
            {
                mapping = null;
                return area.Offset == 0 ? Mapper(area, out mapping) : Errno.ENOMEM;
            }));
        Assert.Equal(Errno.ENOMEM, e.Errno);
        Assert.Contains("0x2000 of region 2", e.Message, StringComparison.Ordinal);
        Assert.True(Assert.Single(_mapped).IsClosed);
        _mappings.Open();
        Assert.False(_mappings.TryRead(2, 0, new byte[4]));
    }

    /// <summary>While it is closed the memory has what nobody may see, and nobody may overwrite.</summary>
    [Fact]
    public void Nobody_is_inside_while_it_is_closed()
    {
        const uint There = 1, Gone = 0xDEAD_DEAD;
        Map(new SparseArea(0, Bytes));
        BinaryPrimitives.WriteUInt32LittleEndian(Memory, There);
        int wrong = 0, accesses = 0;
        bool stop = false;
        Thread[] users = [.. Enumerable.Range(0, 2).Select(_ => new Thread(() =>
        {
            byte[] read = new byte[4];
            byte[] there = BitConverter.GetBytes(There);
            while (!Volatile.Read(ref stop))
            {
                if (_mappings.TryRead(0, 0, read))
                    Interlocked.Increment(ref accesses);
                else
                    Thread.Yield();
                if (BitConverter.ToUInt32(read) == Gone)
                    Interlocked.Increment(ref wrong);
                _mappings.TryWrite(0, 0, there);
            }
        }))];
        foreach (Thread user in users)
            user.Start();
        for (int round = 0; round < 2000; round++)
        {
            int before = Volatile.Read(ref accesses);
            _mappings.Close();
            BinaryPrimitives.WriteUInt32LittleEndian(Memory, Gone);
            Thread.Yield();
            if (BinaryPrimitives.ReadUInt32LittleEndian(Memory) != Gone)
                Interlocked.Increment(ref wrong);
            BinaryPrimitives.WriteUInt32LittleEndian(Memory, There);
            _mappings.Open();
            while (round % 100 == 0 && Volatile.Read(ref accesses) == before)
                Thread.Yield();
        }

        Volatile.Write(ref stop, true);
        foreach (Thread user in users)
            user.Join();
        Assert.Equal(0, wrong);
    }

    private void Map(params SparseArea[] areas)
    {
        Assert.Equal(areas.Aggregate(0UL, (sum, a) => sum + a.Size), _mappings.Map(0, [.. areas], Mapper));
        _mappings.Open();
    }

    private Errno Mapper(SparseArea area, out MemoryMapping? mapping)
    {
        Errno errno = MemoryMapping.TryMapShared(_file, area.Offset, area.Size, writable: true, out mapping);
        if (mapping is not null)
            _mapped.Add(mapping);
        return errno;
    }
}
