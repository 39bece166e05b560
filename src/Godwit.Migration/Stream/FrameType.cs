namespace Godwit.Migration;

/// <summary>What a frame carries. The numbers are the wire's; 0 is never used, so that zeroed memory is no frame.</summary>
public enum FrameType
{
    /// <summary>Both ways, first frame: <see cref="MachineDescription"/> (<see cref="DescriptionMessage"/>).</summary>
    Description = 1,

    /// <summary>Destination: the descriptions are equal, go on. Empty.</summary>
    Accept = 2,

    /// <summary>Both ways: the descriptions differ, with every difference (<see cref="RefusalMessage"/>). Ends the stream.</summary>
    Refuse = 3,

    /// <summary>Source: a round of pages begins (<see cref="RoundBeginMessage"/>).</summary>
    RoundBegin = 4,

    /// <summary>Source: contents of consecutive pages (<see cref="PageRun"/>, then the pages).</summary>
    Pages = 5,

    /// <summary>Source: consecutive pages of zeros (<see cref="PageRun"/>).</summary>
    ZeroPages = 6,

    /// <summary>Source: the round is complete, with its page counts (<see cref="RoundEndMessage"/>).</summary>
    RoundEnd = 7,

    /// <summary>Destination: everything up to this round's end has arrived and was counted, and what a switchover would need (<see cref="RoundAckMessage"/>).</summary>
    RoundAck = 8,

    /// <summary>Source: a chunk of a device's state (<see cref="DeviceChunk"/>, then the bytes).</summary>
    DeviceState = 9,

    /// <summary>Source: a device's state is complete (<see cref="DeviceEndMessage"/>).</summary>
    DeviceStateEnd = 10,

    /// <summary>Source: state of one of the VMM's models begins (<see cref="MachineStateBeginMessage"/>); within a round, as it is while the guest runs.</summary>
    MachineStateBegin = 11,

    /// <summary>Source: bytes of that state; at least 1.</summary>
    MachineStateData = 12,

    /// <summary>Source: that state is complete (<see cref="MachineStateEndMessage"/>).</summary>
    MachineStateEnd = 13,

    /// <summary>Source: everything has been sent, load it (<see cref="PrepareMessage"/>).</summary>
    Prepare = 14,

    /// <summary>Destination: everything is loaded and nothing runs yet. Empty.</summary>
    Prepared = 15,

    /// <summary>Source: checksums of every page follow. Empty.</summary>
    VerifyBegin = 16,

    /// <summary>Source: checksums of consecutive pages (<see cref="PageRun"/>, then 16 bytes a page).</summary>
    PageChecksums = 17,

    /// <summary>Source: that was all of RAM. Empty.</summary>
    VerifyEnd = 18,

    /// <summary>Destination: how the pages compare (<see cref="VerifyResultMessage"/>).</summary>
    VerifyResult = 19,

    /// <summary>Source: <b>the commit point</b>. From here on the source never runs by itself (<see cref="CommitMessage"/>).</summary>
    Commit = 20,

    /// <summary>Destination: the machine runs here (or is paused, as it was), and how long that took (<see cref="RunningMessage"/>).</summary>
    Running = 21,

    /// <summary>Both ways: this side has failed or was cancelled, and why (<see cref="FailureMessage"/>). Ends the stream.</summary>
    Failure = 22,

    /// <summary>Both ways: still there. Empty.</summary>
    KeepAlive = 23,

    /// <summary>Source: more connections for pages are about to come (<see cref="ChannelsMessage"/>).</summary>
    Channels = 24,

    /// <summary>Destination: they may. Empty.</summary>
    ChannelsReady = 25,

    /// <summary>Source, first frame of such a connection (<see cref="AttachMessage"/>); answered by Accept on the same.</summary>
    Attach = 26,

    /// <summary>Source, on such a connection: its part of a round is complete (<see cref="ChannelEndMessage"/>).</summary>
    ChannelEnd = 27,

    /// <summary>Source: as Pages, compressed (<see cref="PageRun"/>, u32 <see cref="PageCompression"/>, u32 0, then the data).</summary>
    CompressedPages = 28,

    /// <summary>Source, in a handover: the files behind its RAM, with their descriptors beside it (<see cref="RamFilesMessage"/>).</summary>
    RamFiles = 29,

    /// <summary>Destination: they are files for its RAM. Empty.</summary>
    RamFilesTaken = 30,
}
