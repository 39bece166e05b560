using System.Buffers.Binary;

namespace Godwit.Devices.Tests;

public class IoCommandTests
{
    [Theory]
    [InlineData(512)]
    [InlineData(4096)]
    public void WrittenDataReachesTheImageAndIsReadBack(int blockSize)
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue, o => o with { BlockSize = blockSize });
        ulong buffer = rig.Memory.Allocate(blockSize * 4);
        new Random(7).NextBytes(rig.Memory.Span(buffer, blockSize));
        byte[] expected = rig.Memory.Span(buffer, blockSize).ToArray();
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 5, 1, buffer)).Status);

        using (FileStream file = File.OpenRead(rig.Image.Path))
        {
            byte[] onDisk = new byte[blockSize];
            file.Position = 5 * blockSize;
            file.ReadExactly(onDisk);
            Assert.Equal(expected, onDisk);
            Assert.Equal(rig.Image.Size, file.Length);
        }
        ulong other = rig.Memory.Allocate(4096);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 5, 1, other)).Status);
        Assert.Equal(expected, rig.Memory.Span(other, blockSize).ToArray());

        NvmeStatistics statistics = rig.Controller.Statistics;
        Assert.Equal((1L, 1L, (long)blockSize, (long)blockSize), (statistics.Reads, statistics.Writes, statistics.BytesRead, statistics.BytesWritten));
    }

    [Theory]
    [InlineData(2047UL, 2, (int)NvmeStatus.LbaOutOfRange)]
    [InlineData(2048UL, 1, (int)NvmeStatus.LbaOutOfRange)]
    [InlineData(ulong.MaxValue, 2, (int)NvmeStatus.LbaOutOfRange)]
    [InlineData(0x8000_0000_0000_0000UL, 1, (int)NvmeStatus.LbaOutOfRange)]
    [InlineData(2047UL, 1, (int)NvmeStatus.Success)]
    public void BlocksMustBeInTheNamespace(ulong block, int count, int status)
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(4096);
        foreach (NvmOpcode opcode in (NvmOpcode[])[NvmOpcode.Read, NvmOpcode.Write, NvmOpcode.Compare, NvmOpcode.WriteZeroes])
            Assert.Equal((NvmeStatus)status, rig.Driver.Execute(queue, GuestDriver.Io(opcode, block, count, buffer)).Status);
    }

    [Fact]
    public void NamespaceMustExist()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(4096);
        foreach (NvmOpcode opcode in Enum.GetValues<NvmOpcode>())
        {
            foreach (uint nsid in (uint[])[0, 2, 0xFFFF_FFFE])
                Assert.Equal(NvmeStatus.InvalidNamespace, rig.Driver.Execute(queue, GuestDriver.Io(opcode, 0, 1, buffer) with { Nsid = nsid }).Status);
        }
        Assert.Equal(NvmeStatus.InvalidNamespace, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 1, buffer) with { Nsid = 0xFFFF_FFFF }).Status);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Flush, 0, 1) with { Nsid = 0xFFFF_FFFF }).Status);
        Assert.Equal(1, rig.Controller.Statistics.Flushes);
    }

    [Fact]
    public void TransferLimitIsKept()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue, o => o with { MaxTransfer = 8192 });
        ulong buffer = rig.Memory.Allocate(8192);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 16, buffer, buffer + 4096)).Status);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 17, buffer, buffer + 4096)).Status);
        Assert.Equal(NvmeStatus.InvalidField, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 0, 65536, buffer, buffer)).Status);
    }

    [Theory]
    [InlineData(0x04)]
    [InlineData(0x0C)]
    [InlineData(0x0D)]
    [InlineData(0x7F)]
    [InlineData(0xFF)]
    public void UnknownOpcodesAreRefused(byte opcode)
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        Assert.Equal(NvmeStatus.InvalidOpcode, rig.Driver.Execute(queue, new Sqe { Opcode = opcode, Nsid = 1 }).Status);
        Assert.Equal(1, rig.Controller.Statistics.Errors);
    }

    [Fact]
    public void DirectivesAreRefused()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        Assert.Equal(
            NvmeStatus.InvalidField,
            rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 0, 1, rig.Memory.Allocate(4096), flags: 1u << 20)).Status);
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(1u << 25)] // DEAC
    public void WriteZeroesMakesZeroes(uint flags)
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(32 * 1024);
        rig.Memory.Span(buffer, 32 * 1024).Fill(0xAB);
        for (ulong block = 0; block < 64; block += 8)
            rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, block, 8, buffer));
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.WriteZeroes, 3, 50, flags: flags)).Status);
        byte[] image = ReadImage(rig);
        Assert.Equal(-1, image.AsSpan(3 * 512, 50 * 512).IndexOfAnyExcept((byte)0));
        Assert.Equal(-1, image.AsSpan(0, 3 * 512).IndexOfAnyExcept((byte)0xAB));
        Assert.Equal(-1, image.AsSpan(53 * 512, 11 * 512).IndexOfAnyExcept((byte)0xAB));
        Assert.Equal(rig.Image.Size, image.Length);

        // The whole namespace at once is above MDTS, which does not apply.
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.WriteZeroes, 0, 2048, flags: flags)).Status);
        Assert.Equal(-1, ReadImage(rig).AsSpan().IndexOfAnyExcept((byte)0));
    }

    [Fact]
    public void DeallocateMakesHolesThatReadZero()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(4096);
        rig.Memory.Span(buffer, 4096).Fill(0xAB);
        for (ulong block = 0; block < 128; block += 8)
            rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, block, 8, buffer));
        ulong list = rig.Memory.Allocate(4096);
        PutRange(rig, list, 0, 8, 8);
        PutRange(rig, list, 1, 100, 1);
        PutRange(rig, list, 2, 64, 0);
        Sqe manage = new() { Opcode = (byte)NvmOpcode.DatasetManagement, Nsid = 1, Prp1 = list, D10 = 2 };
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, manage).Status); // hints only
        Assert.Equal(-1, ReadImage(rig).AsSpan(0, 128 * 512).IndexOfAnyExcept((byte)0xAB));
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, manage with { D11 = 4 }).Status);
        byte[] image = ReadImage(rig);
        for (int block = 0; block < 128; block++)
        {
            byte expected = block is (>= 8 and < 16) or 100 ? (byte)0 : (byte)0xAB;
            Assert.Equal(-1, image.AsSpan(block * 512, 512).IndexOfAnyExcept(expected));
        }

        // One bad range among good ones: nothing happens.
        PutRange(rig, list, 0, 0, 8);
        PutRange(rig, list, 1, 2040, 9);
        Assert.Equal(NvmeStatus.LbaOutOfRange, rig.Driver.Execute(queue, manage with { D10 = 1, D11 = 4 }).Status);
        Assert.Equal(0xAB, ReadImage(rig)[0]);
        Assert.Equal(2, rig.Controller.Statistics.Discards);

        // A list of 256 ranges across two pages; an unmapped second page.
        ulong far = rig.Memory.Allocate(8192) + 2048;
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, manage with { D10 = 255, D11 = 4, Prp1 = far, Prp2 = far + 2048 }).Status);
        Assert.Equal(NvmeStatus.DataTransferError, rig.Driver.Execute(queue, manage with { D10 = 255, D11 = 4, Prp1 = far, Prp2 = rig.Memory.End }).Status);
    }

    [Fact]
    public void CompareTellsEqualFromDifferent()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(128 * 1024);
        new Random(3).NextBytes(rig.Memory.Span(buffer, 128 * 1024));
        ulong list = rig.Memory.Allocate(4096);
        for (int i = 1; i < 32; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(rig.Memory.Span(list + ((ulong)(i - 1) * 8), 8), buffer + ((ulong)i * 4096));
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 16, 256, buffer, list)).Status);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Compare, 16, 256, buffer, list)).Status);
        rig.Memory.Span(buffer + 100_000, 1)[0] ^= 1;
        Assert.Equal(NvmeStatus.CompareFailure, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Compare, 16, 256, buffer, list)).Status);
    }

    [Fact]
    public void WritesWithoutCacheAndWithForcedAccessSucceed()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(4096);
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 0, 1, buffer, flags: 1u << 30)).Status);
        rig.Driver.Succeed(AdminCommandTests.Feature(AdminOpcode.SetFeatures, 6, 0));
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 0, 1, buffer)).Status);
    }

    [Theory]
    [InlineData(int.MaxValue)]
    [InlineData(1000)] // pieces that end inside pages
    [InlineData(0)]    // no mapped memory at all: DMA by message
    public void EveryWayToReachMemoryMovesTheSameBytes(int pieceLimit)
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        rig.Host.PieceLimit = pieceLimit;
        ulong buffer = rig.Memory.Allocate(12 * 1024);
        new Random(11).NextBytes(rig.Memory.Span(buffer, 8192));
        byte[] expected = rig.Memory.Span(buffer + 512, 7680).ToArray();
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 9, 15, buffer + 512, buffer + 4096)).Status);
        rig.Memory.Span(buffer, 8192).Clear();
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 9, 15, buffer + 512, buffer + 4096)).Status);
        Assert.Equal(expected, rig.Memory.Span(buffer + 512, 7680).ToArray());
    }

    [Fact]
    public void UnmappedDataIsATransferErrorAndTheQueueGoesOn()
    {
        using NvmeRig rig = NvmeRig.Started(out GuestQueue queue);
        ulong buffer = rig.Memory.Allocate(4096);
        foreach (NvmOpcode opcode in (NvmOpcode[])[NvmOpcode.Read, NvmOpcode.Write, NvmOpcode.Compare])
        {
            Cqe completion = rig.Driver.Execute(queue, GuestDriver.Io(opcode, 0, 1, rig.Memory.End));
            Assert.Equal(NvmeStatus.DataTransferError, completion.Status);
            Assert.False(completion.DoNotRetry);
            Assert.Equal(NvmeStatus.DataTransferError, rig.Driver.Execute(queue, GuestDriver.Io(opcode, 0, 100, buffer, 0xFFFF_FFFF_FFFF_F000)).Status);
        }
        Assert.Equal(NvmeStatus.Success, rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 1, buffer)).Status);
    }

    private static byte[] ReadImage(NvmeRig rig) => File.ReadAllBytes(rig.Image.Path);

    private static void PutRange(NvmeRig rig, ulong list, int index, ulong block, uint count)
    {
        Span<byte> range = rig.Memory.Span(list + ((ulong)index * 16), 16);
        BinaryPrimitives.WriteUInt32LittleEndian(range[4..], count);
        BinaryPrimitives.WriteUInt64LittleEndian(range[8..], block);
    }
}
