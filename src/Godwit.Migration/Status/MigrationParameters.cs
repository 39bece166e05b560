namespace Godwit.Migration;

/// <summary>Settings of the next migration, QEMU's parameter names in kebab case over QMP.</summary>
public sealed record MigrationParameters
{
    /// <summary>Bytes a second, 0 for no limit (<c>max-bandwidth</c>). Lifted for the switchover, when the guest waits.</summary>
    public long MaxBandwidth { get; init; }

    /// <summary>Longest allowed downtime (<c>downtime-limit</c>, milliseconds; 1 ms to 2000 s).</summary>
    public TimeSpan DowntimeLimit { get; init; } = TimeSpan.FromMilliseconds(300);

    /// <summary>
    /// Compare checksums of every page of the stopped source with the destination before it runs (<c>x-verify-pages</c>). Independent of
    /// dirty tracking; its time is reported apart from the downtime.
    /// </summary>
    public bool VerifyPages { get; init; }

    /// <summary>What is done about a pre-copy that does not converge (<c>x-on-stall</c>).</summary>
    public StallAction OnStall { get; init; }

    /// <summary>How far <see cref="StallAction.RaiseDowntime"/> goes (<c>x-max-downtime</c>, milliseconds; 1 ms to 2000 s).</summary>
    public TimeSpan MaxDowntime { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>How far <see cref="StallAction.Throttle"/> goes (<c>max-cpu-throttle</c>): per cent of the time in which vCPUs do not execute, 1 to 99.</summary>
    public int MaxThrottle { get; init; } = 99;

    /// <summary>Rounds of pre-copy after which the migration gives up when it does not converge (<c>x-max-rounds</c>).</summary>
    public int MaxRounds { get; init; } = 100;

    /// <summary>Shortest time of pre-copy before the switchover, to watch a guest under migration (<c>x-min-precopy</c>, milliseconds; at most a day; counts at once).</summary>
    public TimeSpan MinimumPrecopy { get; init; }

    /// <summary>
    /// Stop the guest and then wait in <see cref="MigrationState.PreSwitchover"/> for <see cref="MigrationController.Continue"/>
    /// (<c>pause-before-switchover</c>), so that what is shared with the other side can be handed over by hand. A cancel, or a link that is
    /// lost meanwhile, lets the guest run on.
    /// </summary>
    public bool PauseBeforeSwitchover { get; init; }

    /// <summary>
    /// Connections that carry pages (<c>multifd-channels</c>, 1 to <see cref="StreamFormat.MaxChannels"/>). With 1, pages go over the control
    /// connection; with more, over so many beside it.
    /// </summary>
    public int Channels { get; init; } = 1;

    /// <summary>How pages are compressed where that pays (<c>multifd-compression</c>); not in files.</summary>
    public PageCompression Compression { get; init; }

    /// <summary>
    /// TLS for every migration of this machine, outgoing and incoming, or null for plain text (<c>x-tls-directory</c>, <c>x-tls-peers</c>).
    /// </summary>
    public TlsCredentials? Tls { get; init; }

    /// <summary>Checks the ranges.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A setting is outside its range; the text names both.</exception>
    /// <exception cref="IOException">A library for the compression is not on this host.</exception>
    internal void Check()
    {
        ArgumentOutOfRangeException.ThrowIfNegative(MaxBandwidth, "max-bandwidth");
        CheckTime(DowntimeLimit, TimeSpan.FromMilliseconds(1), TimeSpan.FromSeconds(2000), "downtime-limit");
        CheckTime(MaxDowntime, TimeSpan.FromMilliseconds(1), TimeSpan.FromSeconds(2000), "x-max-downtime");
        if (MaxThrottle is < 1 or > 99)
            throw new ArgumentOutOfRangeException("max-cpu-throttle", MaxThrottle, "max-cpu-throttle must be 1 to 99");
        CheckTime(MinimumPrecopy, TimeSpan.Zero, TimeSpan.FromDays(1), "x-min-precopy");
        PageCodec.Require(Compression);
        if (Channels is < 1 or > StreamFormat.MaxChannels)
            throw new ArgumentOutOfRangeException("multifd-channels", Channels, $"multifd-channels must be 1 to {StreamFormat.MaxChannels}");
        if (MaxRounds < 1)
            throw new ArgumentOutOfRangeException("x-max-rounds", MaxRounds, "x-max-rounds must be at least 1");
    }

    private static void CheckTime(TimeSpan value, TimeSpan least, TimeSpan most, string name)
    {
        if (value < least || value > most)
        {
            throw new ArgumentOutOfRangeException(name, value.TotalMilliseconds,
                $"{name} must be {least.TotalMilliseconds} to {most.TotalMilliseconds} ms");
        }
    }
}
