namespace Godwit.Pci.Tests;

public class ConfigSpaceTests
{
    [Fact]
    public void WritesGoThroughTheMasksByteByByte()
    {
        var function = new TestFunction("f");
        function.Config.Define(0x80, 4, 0x1122_3344, writable: 0x00FF_00F0, clearOnOne: 0x0000_000F);
        function.WriteConfig(0x80, 0xFFFF_FFF1, 4);
        Assert.Equal(0x11FF_33F4u, function.ReadConfig(0x80, 4)); // W1C: bit 0 was not set, 0xF0 became 1
        function.WriteConfig(0x80, 0x04, 1);
        Assert.Equal(0x11FF_3300u, function.ReadConfig(0x80, 4));
        function.WriteConfig(0x82, 0xABCD, 2);
        Assert.Equal(0x11CDu, function.ReadConfig(0x82, 2));
        function.Reset();
        Assert.Equal(0x1122_3344u, function.ReadConfig(0x80, 4));
    }

    [Theory]
    [InlineData(-4, 4)]
    [InlineData(4096, 1)]
    [InlineData(4094, 4)]
    [InlineData(2, 4)]
    [InlineData(1, 2)]
    [InlineData(0, 3)]
    [InlineData(0, 8)]
    public void BadRegistersAreRefused(int offset, int size)
    {
        var function = new TestFunction("f");
        Assert.Throws<ArgumentOutOfRangeException>(() => function.Config.Define(offset, size, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => function.ReadConfig(offset, size));
        Assert.Throws<ArgumentOutOfRangeException>(() => function.WriteConfig(offset, 0, size));
    }

    [Fact]
    public void CapabilitiesFormTheListInOrder()
    {
        var function = new TestFunction("f", vectors: 4);
        int mine = function.Config.AddCapability(0x09, 10, at: 0xF0);
        Assert.Equal(0xF0, mine);
        var ids = new List<uint>();
        for (uint at = function.ReadConfig(0x34, 1); at != 0; at = function.ReadConfig((int)at + 1, 1))
            ids.Add(function.ReadConfig((int)at, 1));
        Assert.Equal([0x10u, 0x11u, 0x09u], ids);
        Assert.Equal(1u << 4, function.ReadConfig(0x06, 2) & (1 << 4));
        Assert.Equal(mine, function.Config.FindCapability(0x09));
        Assert.Null(function.Config.FindCapability(0x05));
        Assert.Throws<ArgumentException>(() => function.Config.AddCapability(1, 4, at: 0xF8));
        Assert.Throws<ArgumentException>(() => function.Config.AddCapability(1, 4, at: 0x20));
        Assert.Throws<ArgumentException>(() => function.Config.AddCapability(1, 200));
    }

    [Fact]
    public void ExtendedCapabilitiesBeginAt100()
    {
        var function = new TestFunction("f");
        Assert.Throws<ArgumentException>(() => function.Config.AddExtendedCapability(3, 1, 12, at: 0x200));
        Assert.Equal(0x100, function.Config.AddExtendedCapability(1, 2, 0x48));
        Assert.Equal(0x148, function.Config.AddExtendedCapability(3, 1, 12));
        Assert.Equal(0x0001u | (2u << 16) | (0x148u << 20), function.ReadConfig(0x100, 4));
        Assert.Equal(0x0003u | (1u << 16), function.ReadConfig(0x148, 4));
    }

    [Fact]
    public void IdentityReadsAsAGuestExpects()
    {
        var function = new TestFunction("f");
        Assert.Equal(0x1234_1AF4u, function.ReadConfig(0, 4));
        Assert.Equal(0x0108_0207u, function.ReadConfig(8, 4));
        Assert.Equal(0xBBBB_AAAAu, function.ReadConfig(0x2C, 4));
        function.WriteConfig(0, 0, 4);
        Assert.Equal(0x1234_1AF4u, function.ReadConfig(0, 4));
    }
}
