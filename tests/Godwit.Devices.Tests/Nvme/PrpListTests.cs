using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Godwit.Devices.Tests;

public class PrpListTests
{
    private const int MaxTransfer = 1 << 20;
    private const int Pages = 16;

    /// <summary>What a driver lays out, against the address of every byte that it meant.</summary>
    [Fact]
    public void EveryLayoutOfADriverIsFollowed()
    {
        using var memory = new GuestMemory(32 << 20);
        var host = new FakeHost(memory);
        int seed = Environment.TickCount;
        var random = new Random(seed);
        var segments = new DmaSegments(PrpList.SegmentCapacity(MaxTransfer));
        ulong[] scratch = new ulong[PrpList.FetchEntries];
        for (int round = 0; round < 3000; round++)
        {
            int pageShift = 12 + random.Next(5);
            int page = 1 << pageShift;
            int offset = random.Next(3) == 0 ? 0 : random.Next(page / 4) * 4;
            int length = random.Next(4) switch { 0 => random.Next(1, page + 1), 1 => random.Next(1, 2 * page + 1), _ => random.Next(1, MaxTransfer + 1) };
            var layout = PrpLayout.Create(memory, random, pageShift, offset, length);

            NvmeStatus status = PrpList.Collect(host, layout.Prp1, layout.Prp2, length, pageShift, scratch, segments);

            string where = $"seed {seed} round {round}: page {page} offset {offset} length {length}";
            Assert.True(status == NvmeStatus.Success, $"{where}: {status}");
            int done = 0;
            for (int i = 0; i < segments.Count; i++)
            {
                for (int at = 0; at < segments[i].Length;)
                {
                    // Pages at a time: the address of the first byte, and no step over a page boundary but to the next page.
                    int step = Math.Min(segments[i].Length - at, page - ((offset + done) & (page - 1)));
                    Assert.True(segments[i].Address + (ulong)at == layout.AddressOf(done), $"{where}: byte {done}");
                    at += step;
                    done += step;
                }
            }
            Assert.True(done == length, $"{where}: {done} bytes");
        }
    }

    /// <summary>Arbitrary entries in lists that may lead anywhere, against a walk written from the specification's words.</summary>
    [Fact]
    public void ArbitraryListsEndAndAgreeWithTheReference()
    {
        using var memory = new GuestMemory(Pages << 12);
        var host = new FakeHost(memory);
        int seed = Environment.TickCount;
        var random = new Random(seed);
        var segments = new DmaSegments(PrpList.SegmentCapacity(MaxTransfer));
        ulong[] scratch = new ulong[PrpList.FetchEntries];
        int[] outcomes = new int[3];
        for (int round = 0; round < 1000; round++)
        {
            // Few pages, so that lists lead back into themselves; few bad entries, so that walks get somewhere.
            foreach (ref ulong entry in MemoryMarshal.Cast<byte, ulong>(memory.Span(GuestMemory.Base, memory.Size)))
                entry = Entry();
            int length = random.Next(1, MaxTransfer + 1);
            ulong prp1 = Entry() | (ulong)random.Next(1024) * 4;
            ulong prp2 = random.Next(20) == 0 ? 0x8000 : GuestMemory.Base + ((ulong)random.Next(Pages) << 12) + ((ulong)random.Next(512) * 8);
            NvmeStatus status = PrpList.Collect(host, prp1, prp2, length, 12, scratch, segments);

            NvmeStatus expected = Reference(memory, prp1, prp2, length, out List<(ulong Address, int Length)> pieces);
            string where = $"seed {seed} round {round}: prp1 0x{prp1:x} prp2 0x{prp2:x} length {length}";
            Assert.True(expected == status, $"{where}: {status}, reference {expected}");
            outcomes[status switch { NvmeStatus.Success => 0, NvmeStatus.PrpOffsetInvalid => 1, _ => 2 }]++;
            if (status == NvmeStatus.Success)
                Assert.True(Flatten(segments).SequenceEqual(Merge(pieces)), where);
        }
        Assert.All(outcomes, count => Assert.True(count > 10, $"seed {seed}: outcomes {string.Join(' ', outcomes)}"));

        ulong Entry() => random.Next(400) switch
        {
            0 => 0x8000,                                               // nothing mapped there
            1 => GuestMemory.Base + (ulong)random.Next(memory.Size),   // not aligned
            _ => GuestMemory.Base + ((ulong)random.Next(Pages) << 12),
        };
    }

    [Theory]
    [InlineData(1UL, 0UL, 512, (int)NvmeStatus.PrpOffsetInvalid)]         // not a dword
    [InlineData(0UL, 8UL, 8192, (int)NvmeStatus.PrpOffsetInvalid)]        // second page with an offset
    [InlineData(0UL, 4UL, 65536, (int)NvmeStatus.PrpOffsetInvalid)]       // list not at a qword
    [InlineData(0xFFCUL, 1UL, 4, (int)NvmeStatus.Success)]                // PRP2 is not looked at
    [InlineData(0UL, 1UL, 4096, (int)NvmeStatus.Success)]
    [InlineData(0UL, 0xFFFF_FFFF_0000_0000UL, 65536, (int)NvmeStatus.DataTransferError)] // list nowhere
    public void Rules(ulong prp1, ulong prp2, int length, int expected)
    {
        using var memory = new GuestMemory(1 << 20);
        var segments = new DmaSegments(PrpList.SegmentCapacity(MaxTransfer));
        Assert.Equal(
            (NvmeStatus)expected,
            PrpList.Collect(new FakeHost(memory), GuestMemory.Base + prp1, GuestMemory.Base + prp2, length, 12, new ulong[PrpList.FetchEntries], segments));
    }

    [Fact]
    public void TheLastPageOfTheAddressSpaceIsNoNeighbourOfTheFirst()
    {
        using var memory = new GuestMemory(1 << 20);
        var segments = new DmaSegments(4);
        Assert.Equal(
            NvmeStatus.Success,
            PrpList.Collect(new FakeHost(memory), 0xFFFF_FFFF_FFFF_F000, 0, 8192, 12, new ulong[PrpList.FetchEntries], segments));
        Assert.Equal(2, segments.Count);
    }

    /// <summary>One entry at a time, as 4.3 tells it.</summary>
    private static NvmeStatus Reference(GuestMemory memory, ulong prp1, ulong prp2, int length, out List<(ulong Address, int Length)> pieces)
    {
        const ulong Offset = 0xFFF;
        pieces = [];
        if (prp1 % 4 != 0)
            return NvmeStatus.PrpOffsetInvalid;
        int first = Math.Min(length, 4096 - (int)(prp1 & Offset));
        pieces.Add((prp1, first));
        int left = length - first;
        if (left == 0)
            return NvmeStatus.Success;
        if (left <= 4096)
        {
            if ((prp2 & Offset) != 0)
                return NvmeStatus.PrpOffsetInvalid;
            pieces.Add((prp2, left));
            return NvmeStatus.Success;
        }
        if (prp2 % 8 != 0)
            return NvmeStatus.PrpOffsetInvalid;
        ulong at = prp2;
        while (left > 0)
        {
            if (!memory.Contains(at, 8))
                return NvmeStatus.DataTransferError;
            ulong entry = BinaryPrimitives.ReadUInt64LittleEndian(memory.Span(at, 8));
            bool lastOfPage = (at & Offset) == 4096 - 8;
            if ((entry & Offset) != 0)
                return NvmeStatus.PrpOffsetInvalid;
            if (lastOfPage && left > 4096)
            {
                at = entry;
                continue;
            }
            int step = Math.Min(left, 4096);
            pieces.Add((entry, step));
            left -= step;
            at += 8;
        }
        return NvmeStatus.Success;
    }

    private static List<(ulong Address, int Length)> Flatten(DmaSegments segments) =>
        [.. Enumerable.Range(0, segments.Count).Select(i => (segments[i].Address, segments[i].Length))];

    private static List<(ulong Address, int Length)> Merge(List<(ulong Address, int Length)> pieces)
    {
        List<(ulong Address, int Length)> merged = [];
        foreach ((ulong address, int length) in pieces)
        {
            if (merged.Count > 0 && merged[^1].Address + (ulong)merged[^1].Length == address)
                merged[^1] = (merged[^1].Address, merged[^1].Length + length);
            else
                merged.Add((address, length));
        }
        return merged;
    }
}
