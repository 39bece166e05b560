using System.Net;
using System.Net.Sockets;

namespace Godwit.Migration.Tests;

public sealed class ChannelTests : IDisposable
{
    private readonly TempDirectory _directory = new();

    private UnixMigrationUri Unix => new(_directory.File("a.sock"));

    public void Dispose() => _directory.Dispose();

    [Fact]
    public void Connecting_says_why_not()
    {
        Assert.Contains("no such socket", ConnectError(Unix));
        File.WriteAllText(Unix.Path, "");
        Assert.Contains("a file, not a socket", ConnectError(Unix));
        File.Delete(Unix.Path);
        Directory.CreateDirectory(Unix.Path);
        Assert.Contains("a directory", ConnectError(Unix));
        Directory.Delete(Unix.Path);
        MakeStaleSocket();
        Assert.Contains("nobody listens on that socket any more", ConnectError(Unix));

        using var free = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        free.Bind(new IPEndPoint(IPAddress.Loopback, 0)); // bound and not listening: nobody else gets it
        var tcp = new TcpMigrationUri("127.0.0.1", (ushort)((IPEndPoint)free.LocalEndPoint!).Port);
        Assert.Contains("refused", ConnectError(tcp));
        Assert.Contains(tcp.ToString(), ConnectError(tcp));
    }

    [Fact]
    public void Listening_takes_over_a_stale_socket_and_nothing_else()
    {
        File.WriteAllText(Unix.Path, "precious");
        Assert.Contains("no socket", Assert.Throws<IOException>(() => MigrationListener.Open(Unix, TimeProvider.System)).Message);
        Assert.Equal("precious", File.ReadAllText(Unix.Path));
        File.Delete(Unix.Path);

        MakeStaleSocket();
        using (MigrationListener.Open(Unix, TimeProvider.System))
        {
            Assert.Contains("another process", Assert.Throws<IOException>(() => MigrationListener.Open(Unix, TimeProvider.System)).Message);
        }

        Assert.False(Path.Exists(Unix.Path));
        var missing = new UnixMigrationUri(_directory.File("no/such/directory.sock"));
        Assert.Contains(missing.ToString(), Assert.Throws<IOException>(() => MigrationListener.Open(missing, TimeProvider.System)).Message);
    }

    [Theory]
    [InlineData("127.0.0.1")]
    [InlineData("::1")]
    [InlineData("localhost")]
    public void A_port_that_is_taken_is_named(string host)
    {
        using MigrationListener first = MigrationListener.Open(new TcpMigrationUri(host, 0), TimeProvider.System);
        var taken = (TcpMigrationUri)first.Address;
        Assert.NotEqual(0, taken.Port);
        Assert.Contains($":{taken.Port}", Assert.Throws<IOException>(() => MigrationListener.Open(taken, TimeProvider.System)).Message);
    }

    [Fact]
    public void Closing_a_listener_ends_its_accept()
    {
        MigrationListener listener = MigrationListener.Open(Unix, TimeProvider.System);
        MigrationChannel? accepted = null;
        var thread = new Thread(() => accepted = listener.Accept());
        thread.Start();
        listener.Dispose();
        Assert.True(thread.Join(Pair.Patience));
        Assert.Null(accepted);
    }

    [Theory]
    [InlineData("unix")]
    [InlineData("tcp")]
    public void Aborting_ends_a_blocked_read_and_a_blocked_write_with_the_reason(string kind)
    {
        using MigrationListener listener = MigrationListener.Open(
            kind == "unix" ? Unix : new TcpMigrationUri("127.0.0.1", 0), TimeProvider.System);
        using MigrationChannel left = MigrationConnector.Connect(listener.Address, TimeProvider.System, default);
        using MigrationChannel right = listener.Accept()!;
        Exception? read = null;
        Exception? write = null;
        var reader = new Thread(() => read = Record.Exception(() => { left.ReadExactly(new byte[1]); }));
        var writer = new Thread(() => write = Record.Exception((Action)(() =>
        {
            for (; ; )
                left.Write(new byte[1 << 20]);
        })));
        reader.Start();
        writer.Start();
        Assert.True(SpinWait.SpinUntil(() => left.BlockedFor > TimeSpan.FromMilliseconds(100), Pair.Patience));
        left.Abort("enough");
        left.Abort("too late");
        Assert.True(reader.Join(Pair.Patience));
        Assert.True(writer.Join(Pair.Patience));
        Assert.Equal("enough", Assert.IsType<IOException>(read).Message);
        Assert.Equal("enough", Assert.IsType<IOException>(write).Message);
    }

    [Fact]
    public void A_second_source_is_told_that_the_destination_is_busy()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        using var second = new TestMachine();
        using var secondSource = new MigrationController(second, TimeProvider.System);
        pair.MigrateWhileAsking(secondSource);
        Assert.Equal(MigrationState.Completed, pair.Source.Status.State);
        Assert.Equal(MigrationState.Failed, secondSource.Status.State);
        Assert.Contains("busy", secondSource.Status.Error, StringComparison.Ordinal);
        Assert.True(second.Executing);
        Assert.Empty(second.Calls.Calls);
    }

    [Fact]
    public void A_destination_that_is_closed_while_it_listens_leaves_nothing_behind()
    {
        using var machine = new TestMachine(running: false);
        var controller = new MigrationController(machine, TimeProvider.System);
        controller.Listen(Unix.ToString());
        Assert.Equal(Unix.ToString(), controller.ListeningAt);
        Assert.True(Path.Exists(Unix.Path));
        Assert.Throws<InvalidOperationException>(() => controller.Listen(Unix.ToString()));
        Assert.Throws<InvalidOperationException>(() => controller.Start(Unix.ToString()));
        controller.Dispose();
        Assert.False(Path.Exists(Unix.Path));
        Assert.Throws<ObjectDisposedException>(() => controller.Listen(Unix.ToString()));
    }

    [Fact]
    public void Disposing_either_side_in_the_middle_ends_both()
    {
        foreach (bool disposeSource in new[] { true, false })
        {
            using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
            pair.Source.Parameters = new MigrationParameters { MinimumPrecopy = TimeSpan.FromHours(1) };
            pair.Listen();
            pair.Source.Start(pair.Address);
            pair.WaitForDestination(MigrationState.Active);
            (disposeSource ? pair.Source : pair.Destination).Dispose();
            pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed);
            Assert.True(pair.SourceMachine.Executing);
            Assert.False(pair.DestinationMachine.Arrived);
        }
    }

    private static string ConnectError(MigrationUri uri) =>
        Assert.Throws<IOException>(() => MigrationConnector.Connect(uri, TimeProvider.System, default)).Message;

    private void MakeStaleSocket()
    {
        // A socket whose process has ended: bound under another name and renamed, so that closing it does not remove it.
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        string name = _directory.File("temporary.sock");
        socket.Bind(new UnixDomainSocketEndPoint(name));
        File.Move(name, Unix.Path);
    }
}
