namespace Godwit.Migration;

/// <summary>Where a destination's connections come from.</summary>
internal abstract class MigrationListener(MigrationUri address, bool once) : IDisposable
{
    /// <summary>Where it listens; of a TCP address with the port that was taken.</summary>
    internal MigrationUri Address => address;

    /// <summary>It gives one connection in its life: nobody can try again.</summary>
    internal bool Once => once;

    /// <summary>It has not been closed.</summary>
    internal abstract bool IsOpen { get; }

    /// <summary>Opens it.</summary>
    /// <exception cref="IOException">The address cannot be listened on; the text names it and the cause.</exception>
    internal static MigrationListener Open(MigrationUri uri, TimeProvider clock) => uri switch
    {
        FdMigrationUri fd => new SingleConnection(fd, InheritedSocket.Open(fd, clock)),
        FileMigrationUri file => new SingleConnection(file, SavedMachinePlayer.Open(file, clock)),
        ExecMigrationUri exec => new SingleConnection(exec, RelayCommand.Open(exec, clock)),
        _ => SocketListener.Open(uri, clock),
    };

    /// <summary>The next connection, or null once closed.</summary>
    /// <exception cref="IOException">None can be taken any more.</exception>
    internal abstract MigrationChannel? Accept();

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>A connection that is there from the start, and the only one.</summary>
internal sealed class SingleConnection(MigrationUri address, MigrationChannel channel) : MigrationListener(address, once: true)
{
    private readonly ManualResetEventSlim _closed = new();
    private MigrationChannel? _channel = channel;

    /// <inheritdoc/>
    internal override bool IsOpen => !_closed.IsSet;

    /// <inheritdoc/>
    internal override MigrationChannel? Accept()
    {
        if (Interlocked.Exchange(ref _channel, null) is { } first)
            return first;
        _closed.Wait();
        return null;
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        _closed.Set();
        Interlocked.Exchange(ref _channel, null)?.Dispose();
    }
}
