namespace Godwit.Devices.Tests;

public class DataTests
{
    /// <summary>Random transfers over random PRPs, memory page sizes and queues, against a copy of the disk.</summary>
    [Theory]
    [InlineData(12, 512)]
    [InlineData(12, 4096)]
    [InlineData(14, 512)]
    [InlineData(16, 4096)]
    public void RandomTransfersAgreeWithAShadowOfTheDisk(int pageShift, int blockSize)
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        using var image = new TempImage(4 << 20);
        using var memory = new GuestMemory(48 << 20);
        using var rig = new NvmeRig(o => o with { BlockSize = blockSize }, image, memory);
        rig.Driver.Enable(pageShift: pageShift);
        GuestQueue queue = rig.Driver.CreateQueue(1, 8);
        int firstFree = (memory.Size >> pageShift) / 4; // above what the driver allocated
        byte[] shadow = new byte[image.Size];
        int blocks = (int)(image.Size / blockSize);

        for (int round = 0; round < 200; round++)
        {
            int count = random.Next(1, Math.Min(blocks, (1 << 20) / blockSize) + 1);
            if (random.Next(2) == 0)
                count = random.Next(1, 9);
            int block = random.Next(blocks - count + 1);
            int offset = random.Next((1 << pageShift) / 4) * 4;
            var layout = PrpLayout.Create(memory, random, pageShift, offset, count * blockSize, firstFree);
            string where = $"seed {seed} round {round}: block {block} count {count} offset {offset}";
            if (random.Next(2) == 0)
            {
                byte[] data = new byte[count * blockSize];
                random.NextBytes(data);
                layout.Fill(data);
                Cqe written = rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, (ulong)block, count, layout.Prp1, layout.Prp2));
                Assert.True(written.Status == NvmeStatus.Success, $"{where}: {written}");
                data.CopyTo(shadow, block * blockSize);
            }
            else
            {
                Cqe read = rig.Driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, (ulong)block, count, layout.Prp1, layout.Prp2));
                Assert.True(read.Status == NvmeStatus.Success, $"{where}: {read}");
                Assert.True(layout.ToArray().AsSpan().SequenceEqual(shadow.AsSpan(block * blockSize, count * blockSize)), where);
            }
        }
        Assert.True(File.ReadAllBytes(image.Path).AsSpan().SequenceEqual(shadow), $"seed {seed}: image");
    }
}
