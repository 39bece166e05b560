using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.VfioUser.Tests;

/// <summary>Sizes and offsets of the structures against the specification's tables.</summary>
public sealed class WireLayoutTests
{
    [Fact]
    public void Structures_have_the_sizes_of_the_specification()
    {
        Assert.Equal(16, Unsafe.SizeOf<MessageHeader>());
        Assert.Equal(4, Unsafe.SizeOf<VersionBody>());
        Assert.Equal(32, Unsafe.SizeOf<DmaMapBody>());
        Assert.Equal(24, Unsafe.SizeOf<DmaUnmapBody>());
        Assert.Equal(16, Unsafe.SizeOf<DeviceInfoBody>());
        Assert.Equal(32, Unsafe.SizeOf<RegionInfoBody>());
        Assert.Equal(8, Unsafe.SizeOf<CapabilityHeader>());
        Assert.Equal(8, Unsafe.SizeOf<SparseMmapBody>());
        Assert.Equal(16, Unsafe.SizeOf<SpanBody>());
        Assert.Equal(16, Unsafe.SizeOf<RegionIoFdsBody>());
        Assert.Equal(16, Unsafe.SizeOf<IrqInfoBody>());
        Assert.Equal(20, Unsafe.SizeOf<SetIrqsBody>());
        Assert.Equal(16, Unsafe.SizeOf<RegionAccessBody>());
        Assert.Equal(16, Unsafe.SizeOf<DmaAccessBody>());
        Assert.Equal(24, Unsafe.SizeOf<MultiWriteBody>());
        Assert.Equal(8, Unsafe.SizeOf<FeatureBody>());
        Assert.Equal(8, Unsafe.SizeOf<MigrationStateBody>());
        Assert.Equal(16, Unsafe.SizeOf<LogControlBody>());
        Assert.Equal(24, Unsafe.SizeOf<LogReportBody>());
        Assert.Equal(8, Unsafe.SizeOf<MigrationDataBody>());
    }

    [Fact]
    public void A_map_message_has_the_bytes_of_the_specification()
    {
        byte[] message = RawPeer.Message(
            new MessageHeader { Id = 0x0102, Command = Command.DmaMap, Flags = HeaderFlags.NoReply },
            RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, FileOffset = 0x1122334455667788, Address = 0x1000, Size = 0x2000 }));
        Assert.Equal(
            "0201020030000000" + "1000000000000000" + "2000000003000000" + "8877665544332211" + "0010000000000000" + "0020000000000000",
            Convert.ToHexStringLower(message));
    }

    [Theory]
    [InlineData(4096ul, 4096ul, 8ul)]
    [InlineData(64 * 4096ul, 4096ul, 8ul)]
    [InlineData(64 * 4096ul + 1, 4096ul, 16ul)]
    [InlineData(ulong.MaxValue, 4096ul, 1ul << 49)]
    [InlineData(1ul, 1ul << 30, 8ul)]
    public void Bitmaps_are_whole_words(ulong length, ulong pageSize, ulong bytes) => Assert.Equal(bytes, Wire.BitmapBytes(length, pageSize));

    [Fact]
    public void An_error_reply_without_a_number_is_still_an_error()
    {
        var header = new MessageHeader { Flags = HeaderFlags.Reply | HeaderFlags.Error };
        Assert.Equal(Interop.Linux.Errno.EIO, header.ReplyErrno);
        byte[] bytes = new byte[16];
        MemoryMarshal.Write(bytes, header);
        Assert.Equal(0x21, bytes[8]);
    }
}
