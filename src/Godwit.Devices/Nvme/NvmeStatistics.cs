namespace Godwit.Devices;

/// <summary>What a controller has done since this server made it (not what an earlier server did before a migration).</summary>
public sealed record NvmeStatistics
{
    /// <summary>Read and Compare commands that succeeded.</summary>
    public required long Reads { get; init; }

    /// <summary>Write and Write Zeroes commands that succeeded.</summary>
    public required long Writes { get; init; }

    /// <summary>Flush commands that succeeded.</summary>
    public required long Flushes { get; init; }

    /// <summary>Dataset Management commands that succeeded.</summary>
    public required long Discards { get; init; }

    /// <summary>Admin commands, whatever their end.</summary>
    public required long AdminCommands { get; init; }

    /// <summary>Bytes read from the image into guest memory.</summary>
    public required long BytesRead { get; init; }

    /// <summary>Bytes written from guest memory to the image.</summary>
    public required long BytesWritten { get; init; }

    /// <summary>Commands, admin or I/O, that ended with an error status.</summary>
    public required long Errors { get; init; }

    /// <summary>Interrupts signalled.</summary>
    public required long Interrupts { get; init; }
}

/// <summary>Counters that workers add to. One cache line would be shared by few threads at tens of thousands a second: cheap enough.</summary>
internal sealed class NvmeCounters
{
    public long Reads, Writes, Flushes, Discards, AdminCommands, BytesRead, BytesWritten, Errors, Interrupts;

    /// <summary>Of this and earlier servers: what the health log reports and what migrates.</summary>
    public long MediaErrors, LifeReads, LifeWrites, LifeBytesRead, LifeBytesWritten;

    /// <summary>Counts a finished read.</summary>
    public void AddRead(long bytes)
    {
        Interlocked.Increment(ref Reads);
        Interlocked.Add(ref BytesRead, bytes);
    }

    /// <summary>Counts a finished write.</summary>
    public void AddWrite(long bytes)
    {
        Interlocked.Increment(ref Writes);
        Interlocked.Add(ref BytesWritten, bytes);
    }

    /// <summary>A consistent enough copy.</summary>
    public NvmeStatistics Snapshot() => new()
    {
        Reads = Interlocked.Read(ref Reads),
        Writes = Interlocked.Read(ref Writes),
        Flushes = Interlocked.Read(ref Flushes),
        Discards = Interlocked.Read(ref Discards),
        AdminCommands = Interlocked.Read(ref AdminCommands),
        BytesRead = Interlocked.Read(ref BytesRead),
        BytesWritten = Interlocked.Read(ref BytesWritten),
        Errors = Interlocked.Read(ref Errors),
        Interrupts = Interlocked.Read(ref Interrupts),
    };

    /// <summary>Life-time values, for the health log and the migration state.</summary>
    public HealthCounters Health(long errorLogEntries) => new()
    {
        ReadCommands = LifeReads + Interlocked.Read(ref Reads),
        WriteCommands = LifeWrites + Interlocked.Read(ref Writes),
        BytesRead = LifeBytesRead + Interlocked.Read(ref BytesRead),
        BytesWritten = LifeBytesWritten + Interlocked.Read(ref BytesWritten),
        MediaErrors = Interlocked.Read(ref MediaErrors),
        ErrorLogEntries = errorLogEntries,
    };

    /// <summary>Continues the life of another server's controller. Workers are quiet.</summary>
    public void Continue(in HealthCounters health)
    {
        LifeReads = health.ReadCommands - Reads;
        LifeWrites = health.WriteCommands - Writes;
        LifeBytesRead = health.BytesRead - BytesRead;
        LifeBytesWritten = health.BytesWritten - BytesWritten;
        MediaErrors = health.MediaErrors;
    }
}

/// <summary>Life-time counters of the health log.</summary>
internal readonly record struct HealthCounters
{
    public long ReadCommands { get; init; }

    public long WriteCommands { get; init; }

    public long BytesRead { get; init; }

    public long BytesWritten { get; init; }

    public long MediaErrors { get; init; }

    public long ErrorLogEntries { get; init; }
}
