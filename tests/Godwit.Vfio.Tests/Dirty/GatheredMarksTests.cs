using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class GatheredMarksTests
{
    private const int Pages = 1 << 15;

    [Fact]
    public void HandsOverWhatWasMarkedAndNothingTwice() => Seeds.ForEach(200, random =>
    {
        using var ram = new GuestRam();
        ram.Add("ram", (ulong)Pages << RamPage.Shift);
        ram.Dirty.Start();
        var gathered = new GatheredMarks(new DirtyMarker(ram.Dirty), ram.Dirty.PageCount);
        Take(ram);
        for (int round = 0; round < 3; round++)
        {
            var expected = new HashSet<int>();
            for (int i = random.Next(20); i > 0; i--)
                MarkSome(gathered, expected, random);
            gathered.HandOver();
            Assert.Equal(expected.Order(), Take(ram));
            gathered.HandOver();
            Assert.Empty(Take(ram));
        }
    });

    [Fact]
    public void WhatIsMuchWaitsAndWhatIsLittleDoesNot()
    {
        using var ram = new GuestRam();
        ram.Add("ram", (ulong)Pages << RamPage.Shift);
        ram.Dirty.Start();
        Take(ram);
        var gathered = new GatheredMarks(new DirtyMarker(ram.Dirty), ram.Dirty.PageCount);
        gathered.Mark([new RamPage(7), new RamPage(900)], many: false);
        gathered.Mark(new RamPage(70), 3);
        Assert.Equal([7, 70, 71, 72, 900], Take(ram));
        gathered.Mark([new RamPage(7), new RamPage(900)], many: true);
        gathered.Mark(new RamPage(Pages - 70), [1UL << 63, 1UL << 5], 70);
        Assert.Empty(Take(ram));
        gathered.HandOver();
        Assert.Equal([7, 900, Pages - 7, Pages - 1], Take(ram));
    }

    private static void MarkSome(GatheredMarks gathered, HashSet<int> expected, Random random)
    {
        int first = random.Next(Pages);
        switch (random.Next(3))
        {
            case 0:
                int run = random.Next(Math.Min(1500, Pages - first) + 1);
                gathered.Mark(new RamPage((ulong)first), (ulong)run);
                expected.UnionWith(Enumerable.Range(first, run));
                break;
            case 1:
                int[] pages = [.. Enumerable.Range(0, random.Next(600)).Select(_ => random.Next(Pages))];
                gathered.Mark([.. pages.Select(page => new RamPage((ulong)page))], many: random.Next(3) != 0);
                expected.UnionWith(pages);
                break;
            default:
                // At any alignment and, as often, at that of words and of lines; from nothing set to all.
                first = random.Next(3) switch { 0 => first, 1 => first / 64 * 64, _ => first / 512 * 512 };
                int count = random.Next(Math.Min(20_000, Pages - first) + 1);
                int share = random.Next(4) switch { 0 => 0, 1 => 1, 2 => 300, _ => 1000 };
                var bits = new ulong[count / 64 + 1];
                random.NextBytes(System.Runtime.InteropServices.MemoryMarshal.AsBytes(bits.AsSpan((count + 63) / 64))); // past the end: mean nothing
                for (int i = 0; i < bits.Length * 64; i++)
                {
                    if (i >= count ? random.Next(2) == 0 : random.Next(1000) < share)
                        bits[i / 64] |= 1UL << (i % 64);
                    if (i < count && (bits[i / 64] >> (i % 64) & 1) != 0)
                        expected.Add(first + i);
                }

                gathered.Mark(new RamPage((ulong)first), bits, (ulong)count);
                break;
        }
    }

    private static IEnumerable<int> Take(GuestRam ram)
    {
        var words = new ulong[Pages / 64];
        ram.Dirty.Drain(default, words);
        return [.. Enumerable.Range(0, Pages).Where(page => (words[page / 64] >> (page % 64) & 1) != 0)];
    }
}
