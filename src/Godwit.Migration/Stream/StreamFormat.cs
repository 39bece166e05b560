namespace Godwit.Migration;

/// <summary>
/// Layout and limits of the migration stream, version 4. One connection, both ways; little endian throughout.
/// </summary>
/// <remarks>
/// <code>
///  preface, once each way                    frame, any number
///   0        8        12       16            0      4        8          16         20         24
///  ┌────────┬────────┬────────┐             ┌──────┬────────┬──────────┬──────────┬──────────┬─────────┐
///  │ magic  │version │CRC32C  │             │ type │ length │ sequence │ payload  │ header   │ payload │
///  │GODWITMS│  = 4   │of 0..11│             │      │        │ from 0   │ checksum │ CRC32C   │         │
///  └────────┴────────┴────────┘             └──────┴────────┴──────────┴──────────┴──────────┴─────────┘
///
///  source                                                            destination
///    │ preface, Description ──────────────────────────────────────────▶ │
///    │ ◀────────────────────────────────────────── preface, Description │
///    │ ◀─────────────────────── Accept │ Refuse(every difference)       │ nothing is tracked or paused before Accept
///    │                                                                  │
///    │ RoundBegin, (Pages │ ZeroPages │ DeviceState)*,                  │
///    │ (MachineStateBegin … MachineStateEnd)*, RoundEnd ──────────────▶ │ counts checked, states loaded ahead
///    │ ◀──────────────────────── RoundAck(what a switchover would need) │ repeated until it converges
///    │                                                                  │
///    │ guest and devices stop                                           │
///    │ RoundBegin(final) … RoundEnd ──────────────────────────────────▶ │
///    │ (DeviceState* DeviceStateEnd) of each device ──────────────────▶ │
///    │ (MachineStateBegin MachineStateData* MachineStateEnd) of each ─▶ │
///    │ Prepare ───────────────────────────────────────────────────────▶ │ loads all of it
///    │ ◀────────────────────────────────────────────────────── Prepared │
///    │ [VerifyBegin PageChecksums* VerifyEnd ─────────────────────────▶ │ compares with its own]
///    │ [◀───────────────────────────────────────────────── VerifyResult │]
///    │ Commit ════════════════════════════════════════════════════════▶ │ starts devices, then vCPUs
///    │ ◀─────────────────────────────────────────────────────── Running │
/// </code>
/// The header's CRC covers bytes 0 to 19, so a length is believed only when it is right, and it covers the payload's checksum
/// (<see cref="StreamChecksum"/>), so the two together cover the whole frame; of a Pages frame they cover the head, and each page has a
/// checksum of its own there: the contents go straight from the memory of a guest that may be writing. Sequence numbers count frames from 0 in each direction; a
/// frame that is lost, repeated or moved shows at once. Either side sends Failure when it gives up, and KeepAlive when it has been quiet.
/// A newer version may add frame types; a reader refuses what it does not know, so both sides must speak the same version.
/// </remarks>
public static class StreamFormat
{
    /// <summary>First eight bytes of a stream: <c>GODWITMS</c> in ASCII, read as a little-endian number.</summary>
    public const ulong Magic = 0x534D_5449_5744_4F47;

    /// <summary>Version of the stream.</summary>
    public const uint Version = 4;

    /// <summary>Bytes of the preface.</summary>
    public const int PrefaceSize = 16;

    /// <summary>Bytes of a frame's header.</summary>
    public const int HeaderSize = 24;

    /// <summary>
    /// Most pages in one Pages frame. 1 MiB: large enough that headers and system calls cost nothing, small enough that a cancel or a new
    /// bandwidth limit is noticed quickly.
    /// </summary>
    public const int MaxPagesPerFrame = 256;

    /// <summary>Bytes between the run and the data of a CompressedPages frame.</summary>
    public const int CompressedHead = 8;

    /// <summary>Most bytes of a device's state in one frame.</summary>
    public const int MaxDeviceChunk = 1 << 20;

    /// <summary>Most bytes of any payload: a full Pages frame.</summary>
    public const int MaxPayload = PageRun.Size + (MaxPagesPerFrame * (sizeof(uint) + Memory.RamPage.Size));

    /// <summary>Most bytes of the state of one of the VMM's models. Arbitrary; the largest known (a vIOMMU) has some kilobytes.</summary>
    public const int MaxMachineState = 64 << 20;

    /// <summary>Most bytes of all of them together. Arbitrary; keeps a hostile source from filling the host's memory.</summary>
    public const long MaxMachineStates = 256L << 20;

    /// <summary>Longest time that a destination may say it needs. Arbitrary, far above any downtime limit; keeps sums of such times finite.</summary>
    public static readonly TimeSpan MaxEstimate = TimeSpan.FromHours(1);

    /// <summary>Most bytes of one machine state frame.</summary>
    public const int MaxMachineStateChunk = 256 << 10;

    /// <summary>Most entries of a description. Arbitrary.</summary>
    public const int MaxDescriptionEntries = 4096;

    /// <summary>Most bytes of a description on the wire, so that a refusal that lists both sides fits a frame. Arbitrary.</summary>
    public const int MaxDescriptionBytes = 256 << 10;

    /// <summary>Longest name of a description's entry, device or state, in bytes of UTF-8.</summary>
    public const int MaxNameBytes = 255;

    /// <summary>Longest value of a description's entry, in bytes of UTF-8. Arbitrary.</summary>
    public const int MaxValueBytes = 1024;

    /// <summary>Longest text of a Failure frame, in bytes of UTF-8; longer ones are cut.</summary>
    public const int MaxFailureBytes = 4096;

    /// <summary>Most pages named in a VerifyResult; the count beside them is complete.</summary>
    public const int MaxDifferencesListed = 16;

    /// <summary>Most connections for pages. Arbitrary; more than any host has links.</summary>
    public const int MaxChannels = 16;

    /// <summary>Most files of RAM in a handover. Arbitrary; a machine has one or a few blocks.</summary>
    public const int MaxRamFiles = 64;

    /// <summary>Most checksums in one PageChecksums frame.</summary>
    public const int MaxChecksumsPerFrame = 16384;

    /// <summary>How much of a payload the header's checksum covers: all of it, but of a Pages frame what is before the pages.</summary>
    public static int CheckedBytes(FrameType type, int length) => type == FrameType.Pages ? PageRun.PagesHead(PageRun.PagesIn(length)) : length;

    /// <summary>Smallest and largest payload of <paramref name="type"/>; false for a type that does not exist.</summary>
    public static bool TryGetPayloadLimits(FrameType type, out int smallest, out int largest)
    {
        (smallest, largest) = type switch
        {
            FrameType.Description => (4, MaxDescriptionBytes),
            FrameType.Refuse => (4, MaxPayload),
            FrameType.RoundBegin => (RoundBeginMessage.Size, RoundBeginMessage.Size),
            FrameType.Pages => (PageRun.PagesHead(1) + Memory.RamPage.Size, MaxPayload),
            FrameType.CompressedPages => (PageRun.Size + CompressedHead + 1, MaxPayload),
            FrameType.ZeroPages => (PageRun.Size, PageRun.Size),
            FrameType.RoundEnd => (RoundEndMessage.Size, RoundEndMessage.Size),
            FrameType.RoundAck => (RoundAckMessage.Size, RoundAckMessage.Size),
            FrameType.DeviceState => (DeviceChunk.Size + 1, DeviceChunk.Size + MaxDeviceChunk),
            FrameType.DeviceStateEnd => (DeviceEndMessage.Size, DeviceEndMessage.Size),
            FrameType.MachineStateBegin => (MachineStateBeginMessage.FixedSize, MachineStateBeginMessage.FixedSize + MaxNameBytes),
            FrameType.MachineStateData => (1, MaxMachineStateChunk),
            FrameType.MachineStateEnd => (MachineStateEndMessage.Size, MachineStateEndMessage.Size),
            FrameType.Prepare => (PrepareMessage.Size, PrepareMessage.Size),
            FrameType.PageChecksums => (PageRun.Size + 16, PageRun.Size + (16 * MaxChecksumsPerFrame)),
            FrameType.VerifyResult => (VerifyResultMessage.FixedSize, VerifyResultMessage.FixedSize + (16 * MaxDifferencesListed)),
            FrameType.Commit => (CommitMessage.Size, CommitMessage.Size),
            FrameType.Running => (RunningMessage.Size, RunningMessage.Size),
            FrameType.Failure => (1, 1 + MaxFailureBytes),
            FrameType.Channels => (ChannelsMessage.Size, ChannelsMessage.Size),
            FrameType.Attach => (AttachMessage.Size, AttachMessage.Size),
            FrameType.ChannelEnd => (ChannelEndMessage.Size, ChannelEndMessage.Size),
            FrameType.RamFiles => (RamFilesMessage.FixedSize, RamFilesMessage.FixedSize + (MaxRamFiles * (RamFilesMessage.BlockSize + Memory.RamBlock.MaxNameBytes))),
            FrameType.RamFilesTaken or FrameType.ChannelsReady or FrameType.Accept or FrameType.Prepared or FrameType.VerifyBegin or FrameType.VerifyEnd
                or FrameType.KeepAlive => (0, 0),
            _ => (0, -1),
        };
        return largest >= 0;
    }
}
