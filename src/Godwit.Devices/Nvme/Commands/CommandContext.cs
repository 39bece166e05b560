using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>What one worker needs to execute commands without allocating. Used by one thread.</summary>
internal sealed class CommandContext(NvmeLimits limits)
{
    /// <summary>Bytes of <see cref="Bounce"/>.</summary>
    public const int BounceSize = 64 << 10;

    /// <summary>The connected client's memory; set for each visit to a queue.</summary>
    public IDeviceHost Host { get; set; } = null!;

    /// <summary>log2 of the memory page size; set for each visit to a queue.</summary>
    public int PageShift { get; set; }

    /// <summary>The data of the current command.</summary>
    public DmaSegments Segments { get; } = new(PrpList.SegmentCapacity(limits.MaxTransfer));

    /// <summary>Room for PRP list entries.</summary>
    public ulong[] PrpEntries { get; } = new ulong[PrpList.FetchEntries];

    /// <summary>A page for data structures.</summary>
    public byte[] Page { get; } = new byte[IdentifyData.Size];

    /// <summary>Pinned room for data of memory that cannot be mapped here, and for Compare.</summary>
    public byte[] Bounce { get; } = GC.AllocateUninitializedArray<byte>(BounceSize, pinned: true);

    /// <summary>Result of the current command for dword 0 of its completion.</summary>
    public uint Result { get; set; }

    /// <summary>The current command stays without completion: an Async Event Request.</summary>
    public bool Held { get; set; }

    /// <summary>Collects the current command's data into <see cref="Segments"/>.</summary>
    public NvmeStatus Collect(in NvmeCommand command, int length) =>
        PrpList.Collect(Host, command.Prp1, command.Prp2, length, PageShift, PrpEntries, Segments);

    /// <summary>Sends <paramref name="data"/> to the first bytes of the collected segments, which are at least as long.</summary>
    public bool SendToHost(ReadOnlySpan<byte> data)
    {
        for (int i = 0; i < Segments.Count && !data.IsEmpty; i++)
        {
            DmaSegment segment = Segments[i];
            int step = Math.Min(segment.Length, data.Length);
            if (!Host.Write(new DmaAddress(segment.Address), data[..step]))
                return false;
            data = data[step..];
        }
        return true;
    }

    /// <summary>Fetches the first bytes of the collected segments, which are at least as long.</summary>
    public bool FetchFromHost(Span<byte> data)
    {
        for (int i = 0; i < Segments.Count && !data.IsEmpty; i++)
        {
            DmaSegment segment = Segments[i];
            int step = Math.Min(segment.Length, data.Length);
            if (!Host.Read(new DmaAddress(segment.Address), data[..step]))
                return false;
            data = data[step..];
        }
        return true;
    }
}
