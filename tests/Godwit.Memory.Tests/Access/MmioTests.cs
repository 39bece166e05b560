namespace Godwit.Memory.Tests.Access;

public sealed class MmioTests
{
    private readonly MemoryTopology _topology = new();
    private readonly Registers _registers = new();

    [Theory]
    [InlineData(1, 8, false, 0, 8, "w8@0=706050403020100")]
    [InlineData(1, 4, false, 0, 8, "w4@0=3020100 w4@4=7060504")]
    [InlineData(1, 2, false, 4, 4, "w2@4=100 w2@6=302")]
    [InlineData(4, 4, false, 8, 4, "w4@8=3020100")]
    [InlineData(4, 8, false, 0, 2, null)] // narrower than the registers
    [InlineData(1, 8, false, 2, 4, null)] // misaligned
    [InlineData(1, 4, false, 4, 8, null)] // misaligned, though its halves would not be
    [InlineData(1, 8, true, 3, 4, "w4@3=3020100")]
    [InlineData(1, 4, true, 3, 8, "w4@3=3020100 w4@7=7060504")]
    [InlineData(1, 8, false, 1, 7, "w1@1=0 w2@2=201 w4@4=6050403")] // a block copy
    [InlineData(1, 8, false, 0, 3, "w2@0=100 w1@2=2")]
    [InlineData(4, 8, false, 4, 12, "w4@4=3020100 w8@8=b0a090807060504")]
    [InlineData(4, 4, false, 2, 12, null)]
    [InlineData(4, 4, false, 4, 10, null)]
    [InlineData(2, 4, true, 1, 6, "w4@1=3020100 w2@5=504")]
    public void Writes_follow_the_access_rules(int min, int max, bool unaligned, ulong offset, int length, string? expected)
    {
        AddressSpace space = Place(0x1000, new MmioAccessRules(min, max, unaligned));
        byte[] data = [.. Enumerable.Range(0, length).Select(i => (byte)i)];
        MemoryResult result = space.Write(new BusAddress(offset), data, TransactionAttributes.Vcpu);
        Assert.Equal(expected is null ? MemoryResult.AccessError : MemoryResult.Ok, result);
        Assert.Equal(expected ?? "", string.Join(' ', _registers.Log));
    }

    [Fact]
    public void Reads_are_assembled_from_pieces()
    {
        AddressSpace space = Place(0x1000, new MmioAccessRules(1, 4, false));
        _registers.OnRead = (offset, size) => 0xAABB_CCDD_0000_0000 | (0x03020100 + (uint)offset * 0x01010101);
        Assert.Equal(MemoryResult.Ok, space.ReadUInt64(new BusAddress(8), out ulong value, TransactionAttributes.Vcpu));
        Assert.Equal(0x0F0E0D0C_0B0A0908UL, value);
        Assert.Equal(["r4@8", "r4@c"], _registers.Log);
        Assert.Equal(MemoryResult.AccessError, space.ReadUInt32(new BusAddress(2), out _, TransactionAttributes.Vcpu));
    }

    [Fact]
    public void The_initiator_is_passed_on()
    {
        AddressSpace space = Place(0x1000, MmioAccessRules.Default);
        var attributes = new TransactionAttributes(DirtySource.Device, 0x0123);
        space.Read(default, new byte[4], attributes);
        Assert.Equal(attributes, _registers.LastAttributes);
        space.Write(default, new byte[4], TransactionAttributes.Vcpu);
        Assert.Equal(TransactionAttributes.Vcpu, _registers.LastAttributes);
    }

    [Fact]
    public void An_access_over_two_regions_reaches_both()
    {
        var second = new Registers();
        AddressSpace space = Place(4, MmioAccessRules.Default);
        _topology.Add(_topology.SystemRoot, new BusAddress(4), new MmioRegion("second", 4, second));
        Assert.Equal(MemoryResult.Ok, space.WriteUInt64(default, 0x2222222211111111, TransactionAttributes.Vcpu));
        Assert.Equal(["w4@0=11111111"], _registers.Log);
        Assert.Equal(["w4@0=22222222"], second.Log);
    }

    /// <summary>A handler that takes whole accesses only sees no part of one that is longer, begins before it or ends behind it; it is told.</summary>
    [Theory]
    [InlineData(0x1000, 4, true)]
    [InlineData(0x100C, 4, true)]
    [InlineData(0x1000, 8, false)]
    [InlineData(0x0FFC, 8, false)]
    [InlineData(0x0FF8, 12, false)]
    [InlineData(0x100C, 8, false)]
    public void Parts_of_accesses_are_refused_where_nothing_is_split(ulong address, int length, bool taken)
    {
        var others = new Registers();
        _topology.Add(_topology.SystemRoot, default, new MmioRegion("others", 0x2000, others));
        _topology.Add(
            _topology.SystemRoot, new BusAddress(0x1000),
            new MmioRegion("messages", 0x10, _registers, new MmioAccessRules(4, 4, AllowUnaligned: false) { Splits = false }), priority: 1);
        AddressSpace space = _topology.System;
        Assert.Equal(taken ? MemoryResult.Ok : MemoryResult.AccessError, space.Write(new BusAddress(address), new byte[length], TransactionAttributes.Vmm));
        Assert.Equal(taken ? MemoryResult.Ok : MemoryResult.AccessError, space.Read(new BusAddress(address), new byte[length], TransactionAttributes.Vmm));
        int inside = (int)(Math.Min(address + (ulong)length, 0x1010) - Math.Max(address, 0x1000));
        ulong offset = Math.Max(address, 0x1000) - 0x1000;
        Assert.Equal(taken ? [$"w4@{offset:x}=0", $"r4@{offset:x}"] : [], _registers.Log);
        Assert.Equal(taken ? [] : [$"w{inside}@{offset:x}", $"r{inside}@{offset:x}"], _registers.Refusals);
    }

    [Fact]
    public void A_device_that_writes_its_own_registers_stops()
    {
        AddressSpace space = Place(0x1000, MmioAccessRules.Default);
        var results = new List<MemoryResult>();
        _registers.OnWrite = (_, value, _) =>
            results.Add(space.WriteUInt32(new BusAddress(0x10), (uint)value + 1, TransactionAttributes.Vmm));
        Assert.Equal(MemoryResult.Ok, space.WriteUInt32(new BusAddress(0x10), 0, TransactionAttributes.Vmm));
        Assert.Equal(AddressSpace.MaxHandlerDepth, _registers.Log.Count);
        Assert.Equal(MemoryResult.AccessError, results[0]);
        Assert.Equal(AddressSpace.MaxHandlerDepth - 1, results.Count(result => result == MemoryResult.Ok));

        // The bound is per stack, not for ever.
        results.Clear();
        Assert.Equal(MemoryResult.Ok, space.WriteUInt32(new BusAddress(0x10), 0, TransactionAttributes.Vmm));
        Assert.Equal(AddressSpace.MaxHandlerDepth, results.Count);
    }

    [Fact]
    public void A_handler_that_throws_leaves_the_guard_in_order()
    {
        AddressSpace space = Place(0x1000, MmioAccessRules.Default);
        _registers.OnWrite = (_, _, _) => throw new NotSupportedException("register");
        for (int i = 0; i < 2 * AddressSpace.MaxHandlerDepth; i++)
            Assert.Throws<NotSupportedException>(() => space.WriteUInt32(default, 0, TransactionAttributes.Vmm));
        Assert.Equal(0, AccessGuard.Current.HandlerDepth);
        AccessGuardTests.AssertOutside();
    }

    [Fact]
    public void A_handler_may_change_topology()
    {
        AddressSpace space = Place(0x1000, MmioAccessRules.Default);
        var next = new MmioRegion("next", 0x1000, new Registers());
        _registers.OnWrite = (_, _, _) => _topology.Add(_topology.SystemRoot, new BusAddress(0x1000), next);
        Assert.Equal(MemoryResult.DecodeError, space.ReadUInt32(new BusAddress(0x1000), out _, TransactionAttributes.Vcpu));
        space.WriteUInt32(default, 0, TransactionAttributes.Vcpu);
        Assert.Equal(MemoryResult.Ok, space.ReadUInt32(new BusAddress(0x1000), out _, TransactionAttributes.Vcpu));
    }

    private AddressSpace Place(ulong size, MmioAccessRules rules)
    {
        _topology.Add(_topology.SystemRoot, default, new MmioRegion("registers", size, _registers, rules));
        return _topology.System;
    }
}
