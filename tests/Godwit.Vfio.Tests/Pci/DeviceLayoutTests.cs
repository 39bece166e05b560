using System.Buffers.Binary;
using Godwit.Pci;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>What a device says of itself is checked: it is another process.</summary>
public sealed class DeviceLayoutTests
{
    [Fact]
    public void ReadsBarsOfAllKinds()
    {
        byte[] config = Config();
        config[0x10] = 0x0C; // 64-bit, prefetchable
        config[0x18] = 0x00; // 32-bit
        config[0x1C] = 0x01; // I/O
        DeviceLayout layout = Parse(config, new() { [0] = 0x10_0000, [2] = 0x1800, [3] = 0x40 });
        Assert.Equal(
            [new DeviceBar(0, BarKind.Memory64, true, 0x10_0000, 0x10_0000, false), new DeviceBar(2, BarKind.Memory32, false, 0x1800, 0x2000, false)],
            layout.Bars);
        Assert.Contains("BAR 3 is in I/O space", Assert.Single(layout.Omitted), StringComparison.Ordinal);
        Assert.Null(layout.Msix);
        Assert.Null(layout.Express);
    }

    [Theory]
    [InlineData(0, 0x00, true)] // no interrupts at all
    [InlineData(1, 0x00, false)]
    [InlineData(1, 0x05, true)] // MSI
    [InlineData(1, 0x11, true)] // MSI-X
    public void ADeviceWithNothingButAPinIsSaidToSendNoInterrupts(byte pin, byte capability, bool quiet)
    {
        byte[] config = Config();
        config[0x3D] = pin;
        if (capability != 0)
            Msix(config, 0x50, 4, 0, 0x800);
        config[0x50] = capability;
        DeviceLayout layout = Parse(config, new() { [0] = 0x1000 });
        Assert.Equal(quiet, !layout.Omitted.Any(o => o.Contains("INTx", StringComparison.Ordinal)));
    }

    public static TheoryData<string, Action<byte[]>, Dictionary<int, ulong>> Impossible => new()
    {
        { "no function answers", c => BinaryPrimitives.WriteUInt16LittleEndian(c, 0xFFFF), new() },
        { "header type 1", c => c[0x0E] = 1, new() },
        { "unknown type 1", c => c[0x10] = 2, new() { [0] = 0x1000 } },
        { "BAR 5 has 64 bits, and the next one is not free", c => c[0x24] = 4, new() { [5] = 0x1000 } },
        { "BAR 0 has 64 bits, and the next one is not free", c => c[0x10] = 4, new() { [0] = 0x1000, [1] = 0x1000 } },
        { "the limit is 2147483648", _ => { }, new() { [0] = 1UL << 32 } },
        { "the limit is 4611686018427387904", c => c[0x10] = 4, new() { [0] = 1UL << 63 } },
        { "table lie in BAR 3, which does not exist", c => Msix(c, 0x50, 4, 3, 0x800), new() { [0] = 0x1000 } },
        { "table of 32768 bytes at 0x0 reach out of BAR 0", c => Msix(c, 0x50, 2048, 0, 0x800), new() { [0] = 0x1000 } },
        { "pending bits of 8 bytes at 0x1000 reach out", c => Msix(c, 0x50, 4, 0, 0x1000), new() { [0] = 0x1000 } },
        { "pending bits of 8 bytes at 0xfffffff8 reach out", c => Msix(c, 0x50, 4, 0, 0xFFFF_FFF8), new() { [0] = 0x1000 } },
        { "overlap in BAR 0", c => Msix(c, 0x50, 4, 0, 0x38), new() { [0] = 0x1000 } },
        { "reaches out of its space", c => Msix(c, 0xF8, 1, 0, 0x800), new() { [0] = 0x1000 } },
    };

    [Theory]
    [MemberData(nameof(Impossible))]
    public void WhatCannotBeIsRefusedByName(string problem, Action<byte[]> spoil, Dictionary<int, ulong> regions)
    {
        byte[] config = Config();
        spoil(config);
        var e = Assert.Throws<VfioAttachException>(() => Parse(config, regions));
        Assert.Contains(problem, e.Message, StringComparison.Ordinal);
        Assert.Contains("/run/dev.sock", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ALoopOfCapabilitiesEnds()
    {
        byte[] config = Config();
        config[0x06] = 0x10;
        config[0x34] = 0x40;
        (config[0x40], config[0x41]) = (0x09, 0x44);
        (config[0x44], config[0x45]) = (0x10, 0x40);
        Assert.Equal(0x44, Parse(config, []).Express!.Value.Offset);
    }

    [Fact]
    public void AnyBytesAreEitherALayoutOrRefused() => Seeds.ForEach(20_000, random =>
    {
        byte[] config = new byte[256];
        random.NextBytes(config);
        config[0x0E] &= 0x80;
        var regions = new Dictionary<int, ulong>();
        for (int i = 0; i < 6; i++)
        {
            if (random.Next(2) == 0)
                regions[i] = 1UL << random.Next(64);
        }

        if (random.Next(2) == 0)
            Msix(config, 0x40 + 4 * random.Next(48), random.Next(1, 2049), random.Next(8), (uint)random.NextInt64(1L << 32));
        try
        {
            DeviceLayout layout = Parse(config, regions);
            Assert.All(layout.Bars, b => Assert.True(ulong.IsPow2(b.BarBytes) && b.BarBytes >= b.RegionBytes && b.BarBytes >= 16));
        }
        catch (VfioAttachException)
        {
            // refused, which is an answer
        }
    });

    private static byte[] Config()
    {
        byte[] config = new byte[256];
        BinaryPrimitives.WriteUInt16LittleEndian(config, 0x1234);
        return config;
    }

    private static void Msix(byte[] config, int at, int vectors, int bar, uint pendingOffset)
    {
        config[0x06] |= 0x10;
        config[0x34] = (byte)at;
        (config[at], config[at + 1]) = (0x11, 0);
        if (at > 256 - 12)
            return;
        BinaryPrimitives.WriteUInt16LittleEndian(config.AsSpan(at + 2), (ushort)(vectors - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(config.AsSpan(at + 4), (uint)bar);
        BinaryPrimitives.WriteUInt32LittleEndian(config.AsSpan(at + 8), (pendingOffset & ~7u) | (uint)bar);
    }

    private static DeviceLayout Parse(byte[] config, Dictionary<int, ulong> sizes)
    {
        var regions = new RegionInfo[PciRegion.Count];
        for (int i = 0; i < regions.Length; i++)
            regions[i] = new RegionInfo(i, sizes.GetValueOrDefault(i), true, true, 0, [], null);
        return DeviceLayout.Parse("/run/dev.sock", config, regions, [0, 0, 4, 0, 0], canReset: true);
    }
}
