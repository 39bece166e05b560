using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>
/// The command of an <c>exec:</c> address. Its standard input and output are one end of a socket pair, so that everything a connection can do
/// (half closing, timeouts, ending a blocked write from another thread) can be done with it.
/// </summary>
internal sealed class RelayCommand : IChannelPeer
{
    private const string Shell = "/bin/sh";

    // After its input has ended, how long it may take to end by itself. Arbitrary: what it still had to pass on has been read or given up.
    private static readonly TimeSpan Farewell = TimeSpan.FromSeconds(1);

    // How long the end of its output is ahead of the end of the process.
    private static readonly TimeSpan EndDelay = TimeSpan.FromMilliseconds(200);

    private readonly ChildProcess _process;
    private readonly string _command;

    private RelayCommand(string command, ChildProcess process)
    {
        _command = command;
        _process = process;
    }

    /// <inheritdoc/>
    public string EndNote => _process.WaitForEnd(EndDelay) && _process.End is { } end ? $" (the command '{_command}' ended with {end})" : "";

    /// <summary>Starts the command.</summary>
    /// <exception cref="IOException">It cannot be started; what the shell makes of it shows only later.</exception>
    internal static MigrationChannel Open(ExecMigrationUri uri, TimeProvider clock)
    {
        (SocketHandle mine, SocketHandle theirs) = SocketHandle.CreatePair();
        using (mine)
        using (theirs)
        {
            var relay = new RelayCommand(uri.Command, ChildProcess.Start(Shell, ["sh", "-c", uri.Command], theirs));
            try
            {
                return new MigrationChannel(InheritedSocket.AdoptDuplicate(unistd.fcntl(mine, unistd.F_DUPFD_CLOEXEC, 0)), clock, relay);
            }
            catch
            {
                relay.Dispose();
                throw;
            }
        }
    }

    /// <summary>Waits a moment for its end, then kills it and what it has started.</summary>
    public void Dispose()
    {
        _process.WaitForEnd(Farewell);
        _process.Dispose();
    }
}
