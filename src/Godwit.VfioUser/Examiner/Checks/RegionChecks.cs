namespace Godwit.VfioUser;

/// <summary>Access to regions (specification, REGION_READ and REGION_WRITE).</summary>
internal static class RegionChecks
{
    public static IReadOnlyList<Check> All { get; } =
    [
        new("region.sizes", "configuration space reads the same in bytes, words and as a whole", static e =>
        {
            byte[] whole = e.Read(PciRegion.Config, 0, 64);
            for (int i = 0; i < 64; i += 4)
            {
                byte[] four = e.Read(PciRegion.Config, (ulong)i, 4);
                byte[] pieces = [.. e.Read(PciRegion.Config, (ulong)i, 1), .. e.Read(PciRegion.Config, (ulong)i + 1, 1), .. e.Read(PciRegion.Config, (ulong)i + 2, 2)];
                Examination.Require(four.AsSpan().SequenceEqual(pieces) && four.AsSpan().SequenceEqual(whole.AsSpan(i, 4)), $"it differs at 0x{i:x}");
            }
        }),
        new("region.bounds", "an access that leaves its region, or wraps, is refused", static e =>
        {
            for (int i = 0; i < PciRegion.Vga; i++)
            {
                ulong size = e.Region(i).Size;
                if (size == 0)
                    continue;
                Refused(e, i, size, 1);
                Refused(e, i, size - 1, 2);
                Refused(e, i, size - 4, 8);
                Refused(e, i, ulong.MaxValue, 1);
                Refused(e, i, ulong.MaxValue - 3, 8);
            }
        }),
        new("region.absent", "a region that does not exist, or is empty, cannot be accessed", static e =>
        {
            Refused(e, 1000, 0, 4);
            Refused(e, int.MaxValue, 0, 4);
            for (int i = 0; i < PciRegion.Count; i++)
            {
                if (e.Region(i).Size == 0)
                    Refused(e, i, 0, 4);
            }
        }),
        new("region.count", "a count above max_data_xfer_size is refused, and so is a write with less or more data than it says", static e =>
        {
            e.Refused(Command.RegionRead, "a read of 4 GiB", ExaminerPeer.Bytes(new RegionAccessBody { Region = PciRegion.Config, Count = uint.MaxValue }));
            e.Refused(Command.RegionWrite, "a write of 8 bytes with 4", ExaminerPeer.Bytes(new RegionAccessBody { Region = PciRegion.Config, Offset = 0x3C, Count = 8 }, new byte[4]));
            e.Refused(Command.RegionWrite, "a write of 4 bytes with 8", ExaminerPeer.Bytes(new RegionAccessBody { Region = PciRegion.Config, Offset = 0x3C, Count = 4 }, new byte[8]));
        }),
        new("region.write-answer", "a write is answered with its own place and count, without the data", static e =>
        {
            RegionAccessBody reply = e.Get<RegionAccessBody>(
                Command.RegionWrite, "a write of the interrupt line", ExaminerPeer.Bytes(new RegionAccessBody { Region = PciRegion.Config, Offset = 0x3C, Count = 1 }, [9]), out byte[] rest);
            Examination.Require(reply is { Region: PciRegion.Config, Offset: 0x3C, Count: 1 } && rest.Length == 0, $"the answer says {reply.Count} bytes at 0x{reply.Offset:x} of region {reply.Region}, with {rest.Length} more");
        }),
    ];

    private static void Refused(Examination e, int region, ulong offset, int count) => e.Refused(
        Command.RegionRead, $"a read of {count} bytes at 0x{offset:x} of region {region}", ExaminerPeer.Bytes(new RegionAccessBody { Offset = offset, Region = (uint)region, Count = (uint)count }));
}
