namespace Godwit.VfioUser;

/// <summary>How to serve.</summary>
public sealed record VfioUserServerOptions
{
    /// <summary>Path of the listening socket.</summary>
    public required string SocketPath { get; init; }

    /// <summary>Told one line per event worth an operator's eye. Called on any of the server's threads.</summary>
    public Action<string>? Log { get; init; }

    /// <summary>
    /// How long to wait for the answer to one DMA message before the access fails; it may take a quarter longer. A client that stops in the
    /// middle of a message meanwhile loses its connection, after half as long again at most.
    /// </summary>
    public TimeSpan DmaReplyTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a client may take to say what it speaks; longer would keep others out.</summary>
    public TimeSpan HandshakeTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long a second client, which is refused, may take to say its first word.</summary>
    public TimeSpan RefusalTimeout { get; init; } = TimeSpan.FromSeconds(2);

    /// <summary>
    /// How long a client may leave its socket full before it counts as gone: a thread of the device may be waiting to ask it something. By the
    /// kernel's clock (SO_SNDTIMEO, socket(7)).
    /// </summary>
    public TimeSpan SendTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>
    /// How long the device may take to let go of a client that has gone. Until then, and from then on until it has, further ones are told
    /// that it is busy; a server that is told to stop waits no longer.
    /// </summary>
    public TimeSpan DetachTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>What the device's log of DMA accepts; no limits but the protocol's unless said otherwise.</summary>
    public DmaLogLimits LogLimits { get; init; } = new();

    /// <summary>
    /// Whether clients may send several region writes in one message (REGION_WRITE_MULTI). They are understood in any case; QEMU 10 queues
    /// all its region writes once they are offered.
    /// </summary>
    public bool OfferWriteMultiple { get; init; }

    /// <summary>How many different files of clients may be mapped.</summary>
    internal FileBudget Files { get; init; } = FileBudget.Process;

    /// <summary>Clock for all times here but <see cref="SendTimeout"/>.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;
}
