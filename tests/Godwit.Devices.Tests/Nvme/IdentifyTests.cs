using System.Buffers.Binary;
using System.Text;

namespace Godwit.Devices.Tests;

public class IdentifyTests
{
    [Fact]
    public void ControllerStructure()
    {
        using NvmeRig rig = NvmeRig.Started(out _, o => o with { Serial = "SN 42" });
        ReadOnlySpan<byte> data = Identify(rig, 1, 0);
        Assert.Equal(PciIdentity.Vendor, BinaryPrimitives.ReadUInt16LittleEndian(data));
        Assert.Equal("SN 42".PadRight(20), Encoding.ASCII.GetString(data.Slice(4, 20)));
        Assert.Equal("Godwit NVMe Controller".PadRight(40), Encoding.ASCII.GetString(data.Slice(24, 40)));
        Assert.Equal(8, data[77]); // MDTS 1 MiB
        Assert.Equal(0x10400u, BinaryPrimitives.ReadUInt32LittleEndian(data[80..]));
        Assert.Equal(0x66, data[512]);
        Assert.Equal(0x44, data[513]);
        Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(data[516..]));
        Assert.Equal(0b1101, data[520]);
        Assert.Equal(7, data[525]);
        string name = Encoding.ASCII.GetString(data.Slice(768, 256)).TrimEnd('\0');
        Assert.Matches("^nqn\\.2014-08\\.org\\.nvmexpress:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", name);
    }

    [Theory]
    [InlineData(512, 9)]
    [InlineData(4096, 12)]
    public void NamespaceStructure(int blockSize, int shift)
    {
        using NvmeRig rig = NvmeRig.Started(out _, o => o with { BlockSize = blockSize });
        ReadOnlySpan<byte> data = Identify(rig, 0, 1);
        ulong blocks = (1UL << 20) / (ulong)blockSize;
        Assert.Equal(blocks, BinaryPrimitives.ReadUInt64LittleEndian(data));
        Assert.Equal(blocks, BinaryPrimitives.ReadUInt64LittleEndian(data[8..]));
        Assert.Equal(0, data[25]);
        Assert.Equal(0, data[26]);
        Assert.Equal((uint)shift << 16, BinaryPrimitives.ReadUInt32LittleEndian(data[128..]));
    }

    [Fact]
    public void NamespaceListAndDescriptors()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        ReadOnlySpan<byte> list = Identify(rig, 2, 0);
        Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(list));
        Assert.Equal(0u, BinaryPrimitives.ReadUInt32LittleEndian(list[4..]));
        Assert.Equal(0u, BinaryPrimitives.ReadUInt32LittleEndian(Identify(rig, 2, 1)));
        ReadOnlySpan<byte> descriptors = Identify(rig, 3, 1);
        Assert.Equal(3, descriptors[0]);
        Assert.Equal(16, descriptors[1]);
        Assert.Equal(0x80, descriptors[4 + 6] & 0xF0);
        Assert.Equal(0, descriptors[20]);
    }

    [Theory]
    [InlineData(0u, 0u, (int)NvmeStatus.InvalidNamespace)]
    [InlineData(0u, 2u, (int)NvmeStatus.InvalidNamespace)]
    [InlineData(0u, 0xFFFF_FFFFu, (int)NvmeStatus.InvalidNamespace)]
    [InlineData(2u, 0xFFFF_FFFEu, (int)NvmeStatus.InvalidNamespace)]
    [InlineData(3u, 0u, (int)NvmeStatus.InvalidNamespace)]
    [InlineData(0x10u, 0u, (int)NvmeStatus.InvalidField)]
    [InlineData(0xFFu, 1u, (int)NvmeStatus.InvalidField)]
    public void WrongIdentifiesAreRefused(uint kind, uint nsid, int status)
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        Cqe completion = rig.Driver.Execute(GuestDriver.IdentifyCommand(kind, nsid, rig.Memory.Allocate(4096)));
        Assert.Equal((NvmeStatus)status, completion.Status);
        Assert.True(completion.DoNotRetry);
    }

    [Fact]
    public void StructuresGoAcrossTwoPages()
    {
        using NvmeRig rig = NvmeRig.Started(out _);
        byte[] whole = Identify(rig, 1, 0).ToArray();
        ulong first = rig.Memory.Allocate(4096);
        rig.Memory.Allocate(4096);
        ulong second = rig.Memory.Allocate(4096);
        rig.Driver.Succeed(GuestDriver.IdentifyCommand(1, 0, first + 0xC00) with { Prp2 = second });
        Assert.Equal(whole.AsSpan(0, 0x400), rig.Memory.Span(first + 0xC00, 0x400));
        Assert.Equal(whole.AsSpan(0x400), rig.Memory.Span(second, 0xC00));
    }

    private static ReadOnlySpan<byte> Identify(NvmeRig rig, uint kind, uint nsid)
    {
        ulong page = rig.Memory.Allocate(4096);
        rig.Driver.Succeed(GuestDriver.IdentifyCommand(kind, nsid, page));
        return rig.Memory.Span(page, 4096);
    }
}
