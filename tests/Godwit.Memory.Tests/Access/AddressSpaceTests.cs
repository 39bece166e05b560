namespace Godwit.Memory.Tests.Access;

public sealed class AddressSpaceTests : IDisposable
{
    private const ulong RamSize = 2 << 20;
    private readonly GuestRam _ram = new();
    private readonly MemoryTopology _topology = new();
    private readonly RamBlock _block;
    private readonly RamRegion _region;

    public AddressSpaceTests()
    {
        _ram.Add("other", RamSize);
        _block = _ram.Add("ram", RamSize);
        _region = new RamRegion("ram", _block);
        _topology.Add(_topology.SystemRoot, new BusAddress(0x10_0000), _region);
    }

    private AddressSpace Space => _topology.System;

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void RAM_is_read_and_written_at_its_offset()
    {
        Assert.Equal(MemoryResult.Ok, Space.Write(At(0x10_0123), [1, 2, 3], TransactionAttributes.Vcpu));
        var read = new byte[3];
        _block.Read(0x123, read);
        Assert.Equal([1, 2, 3], read);
        Assert.Equal(MemoryResult.Ok, Space.Read(At(0x10_0124), read.AsSpan(0, 2), TransactionAttributes.Vcpu));
        Assert.Equal([2, 3, 3], read);
    }

    [Fact]
    public void Words_are_little_endian()
    {
        Assert.Equal(MemoryResult.Ok, Space.WriteUInt64(At(0x10_0000), 0x0102030405060708, TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.Ok, Space.WriteUInt32(At(0x10_0008), 0x090A0B0C, TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.Ok, Space.WriteUInt16(At(0x10_000C), 0x0D0E, TransactionAttributes.Vmm));
        var bytes = new byte[14];
        _block.Read(0, bytes);
        Assert.Equal([8, 7, 6, 5, 4, 3, 2, 1, 12, 11, 10, 9, 14, 13], bytes);
        Assert.Equal(MemoryResult.Ok, Space.ReadUInt64(At(0x10_0000), out ulong wide, TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.Ok, Space.ReadUInt32(At(0x10_0006), out uint middle, TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.Ok, Space.ReadUInt16(At(0x10_0001), out ushort small, TransactionAttributes.Vmm));
        Assert.Equal(0x0102030405060708UL, wide);
        Assert.Equal(0x0B0C0102U, middle);
        Assert.Equal(0x0607, small);
        Assert.Equal(MemoryResult.DecodeError, Space.ReadUInt64(At(0), out wide, TransactionAttributes.Vmm));
        Assert.Equal(0UL, wide);
        Assert.False(Space.TryRead(At(0), new byte[1], TransactionAttributes.Vmm));
        Assert.True(Space.TryWrite(At(0x10_0000), new byte[1], TransactionAttributes.Vmm));
    }

    [Fact]
    public void Nothing_answers_in_holes_and_pieces_before_them_are_done()
    {
        Assert.Equal(MemoryResult.DecodeError, Space.Read(At(0xF_FFFF), new byte[1], TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.DecodeError, Space.Write(At(0xF_FFFF), new byte[2], TransactionAttributes.Vmm));
        ulong end = 0x10_0000 + RamSize;
        Assert.Equal(MemoryResult.DecodeError, Space.Write(At(end - 2), [7, 8, 9], TransactionAttributes.Vmm));
        var read = new byte[3];
        Assert.Equal(MemoryResult.DecodeError, Space.Read(At(end - 2), read, TransactionAttributes.Vmm));
        Assert.Equal([7, 8, 0], read);
        Assert.Equal(MemoryResult.Ok, Space.Read(At(0), [], TransactionAttributes.Vmm));
    }

    [Fact]
    public void An_access_does_not_wrap_at_the_top()
    {
        var top = new Registers();
        var bottom = new Registers();
        _topology.Add(_topology.SystemRoot, At(ulong.MaxValue - 7), new MmioRegion("top", 8, top));
        _topology.Add(_topology.SystemRoot, At(0), new MmioRegion("bottom", 8, bottom));
        Assert.Equal(MemoryResult.DecodeError, Space.Write(At(ulong.MaxValue - 7), new byte[16], TransactionAttributes.Vmm));
        Assert.Equal(["w8@0=0"], top.Log);
        Assert.Empty(bottom.Log);
    }

    [Fact]
    public void Read_only_memory_refuses_writes()
    {
        _topology.Add(_topology.SystemRoot, At(0x80_0000), new RamRegion("rom", _block, readOnly: true));
        _block.Write(0, [5], DirtySource.Vmm);
        Assert.Equal(MemoryResult.AccessError, Space.Write(At(0x80_0000), [1], TransactionAttributes.Vmm));
        var read = new byte[1];
        Assert.Equal(MemoryResult.Ok, Space.Read(At(0x80_0000), read, TransactionAttributes.Vmm));
        Assert.Equal(5, read[0]);
        Assert.Equal(MemoryResult.AccessError, Space.CompareExchange(At(0x80_0000), 5, 6, out _, TransactionAttributes.Vmm));
    }

    [Fact]
    public void Writes_are_booked_to_their_source_on_the_right_pages()
    {
        _ram.Dirty.Start();
        var words = new ulong[16];
        _ram.Dirty.Drain(new RamPage(0), words);
        Space.Write(At(0x10_0FFF), [1, 2], new TransactionAttributes(DirtySource.Device, 0x0100));
        Space.Read(At(0x10_5000), new byte[4], TransactionAttributes.Vcpu);
        Space.CompareExchange(At(0x10_3000), 1, 2, out _, TransactionAttributes.Vmm);
        Assert.Equal(0, _ram.Dirty.MarkedBy(DirtySource.Vmm));
        Space.CompareExchange(At(0x10_3000), 0, 2, out _, TransactionAttributes.Vmm);
        Assert.Equal(1, _ram.Dirty.MarkedBy(DirtySource.Vmm));
        Assert.Equal(2, _ram.Dirty.MarkedBy(DirtySource.Device));
        Assert.Equal(3UL, _ram.Dirty.Drain(new RamPage(0), words));
        Assert.Equal(0b1011UL, words[8]);
    }

    [Fact]
    public void CompareExchange_works_on_aligned_RAM_words_only()
    {
        BusAddress address = At(0x10_0040);
        Assert.Equal(MemoryResult.Ok, Space.CompareExchange(address, 0, 77, out ulong previous, TransactionAttributes.Vmm));
        Assert.Equal(0UL, previous);
        Assert.Equal(MemoryResult.Ok, Space.CompareExchange(address, 1, 88, out previous, TransactionAttributes.Vmm));
        Assert.Equal(77UL, previous);
        Space.ReadUInt64(address, out ulong now, TransactionAttributes.Vmm);
        Assert.Equal(77UL, now);
        Assert.Equal(MemoryResult.AccessError, Space.CompareExchange(At(0x10_0041), 0, 1, out _, TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.DecodeError, Space.CompareExchange(At(0), 0, 1, out _, TransactionAttributes.Vmm));
        var registers = new Registers();
        _topology.Add(_topology.SystemRoot, At(0), new MmioRegion("mmio", 8, registers));
        Assert.Equal(MemoryResult.AccessError, Space.CompareExchange(At(0), 0, 1, out _, TransactionAttributes.Vmm));
        Assert.Empty(registers.Log);
    }

    [Fact]
    public void CompareExchange_refuses_a_word_that_its_window_misaligns()
    {
        _topology.Add(_topology.SystemRoot, At(0x90_0000), new AliasRegion("odd", _region, 4, 0x1000));
        Assert.Equal(MemoryResult.AccessError, Space.CompareExchange(At(0x90_0000), 0, 1, out _, TransactionAttributes.Vmm));
    }

    [Fact]
    public void TryResolveRam_finds_block_offset_and_rest()
    {
        Assert.True(Space.TryResolveRam(At(0x10_1000), out RamBlock block, out ulong offset, out ulong contiguous, out bool readOnly));
        Assert.Same(_block, block);
        Assert.Equal(0x1000UL, offset);
        Assert.Equal(RamSize - 0x1000, contiguous);
        Assert.False(readOnly);
        Assert.False(Space.TryResolveRam(At(0), out _, out _, out _, out _));
        _topology.Add(_topology.SystemRoot, At(0), new MmioRegion("mmio", 8, new Registers()));
        Assert.False(Space.TryResolveRam(At(0), out _, out _, out _, out _));
    }

    [Fact]
    public void Accesses_after_the_RAM_is_gone_fail()
    {
        _ram.Dispose();
        Assert.Equal(MemoryResult.DecodeError, Space.Read(At(0x10_0000), new byte[8], TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.DecodeError, Space.Write(At(0x10_0000), new byte[8], TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.DecodeError, Space.CompareExchange(At(0x10_0000), 0, 1, out _, TransactionAttributes.Vmm));
    }

    [Fact]
    public void RAM_accesses_allocate_nothing()
    {
        var iommu = new TestIommu();
        iommu.OnTranslate = static (iova, _, _) =>
            new IommuTranslation(new Iova(iova.Value & ~0xFFFUL), new Gpa(0x10_0000 + (iova.Value & 0xFF000)), 0xFFF, AccessRights.ReadWrite);
        AddressSpace device = _topology.CreateAddressSpace("device", iommu);
        var buffer = new byte[9000];
        _ram.Dirty.Start();
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 100; i++)
                Exercise();
        }));

        void Exercise()
        {
            Space.Read(At(0x10_0000), buffer, TransactionAttributes.Vcpu);
            Space.Write(At(0x10_0003), buffer, TransactionAttributes.Vcpu);
            Space.ReadUInt64(At(0x10_0000), out _, TransactionAttributes.Vcpu);
            Space.CompareExchange(At(0x10_0000), 0, 0, out _, TransactionAttributes.Vcpu);
            Space.TryResolveRam(At(0x10_0000), out _, out _, out _, out _);
            device.Read(At(0x10), buffer, TransactionAttributes.Vcpu);
            device.Write(At(0x10), buffer, TransactionAttributes.Vcpu);
            _topology.WaitForAccesses();
        }
    }

    [Fact]
    public void Random_accesses_agree_with_a_byte_array() => Seeded.Run(10, random =>
    {
        // RAM in three pieces of unequal order, so that accesses cross borders.
        var topology = new MemoryTopology();
        using var ram = new GuestRam();
        var region = new RamRegion("ram", ram.Add("ram", RamSize));
        var model = new byte[0x3000];
        topology.Add(topology.SystemRoot, At(0), new AliasRegion("c", region, 0x9000, 0x1000));
        topology.Add(topology.SystemRoot, At(0x1000), new AliasRegion("a", region, 0x2000, 0x0800));
        topology.Add(topology.SystemRoot, At(0x1800), new AliasRegion("b", region, 0x5000, 0x1800));
        for (int step = 0; step < 2000; step++)
        {
            int length = random.Next(1, random.Next(2) == 0 ? 20 : 3000);
            int address = random.Next(model.Length - length);
            var data = new byte[length];
            if (random.Next(2) == 0)
            {
                random.NextBytes(data);
                data.CopyTo(model, address);
                Assert.Equal(MemoryResult.Ok, topology.System.Write(At((ulong)address), data, TransactionAttributes.Vmm));
            }
            else
            {
                Assert.Equal(MemoryResult.Ok, topology.System.Read(At((ulong)address), data, TransactionAttributes.Vmm));
                Assert.True(model.AsSpan(address, length).SequenceEqual(data));
            }
        }
    });

    private static BusAddress At(ulong address) => new(address);
}
