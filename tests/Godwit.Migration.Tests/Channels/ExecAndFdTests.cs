using System.Diagnostics;
using System.Net.Sockets;
using Godwit.Interop.Linux;

namespace Godwit.Migration.Tests;

/// <summary>Connections through commands and handed descriptors.</summary>
public sealed class ExecAndFdTests : IDisposable
{
    private const int F_DUPFD = 0; // fcntl(2): a duplicate that is not close-on-exec, as a parent hands down

    private readonly TempDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    /// <summary>The relay is four processes that each copy one way and close what they write to when what they read from ends.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_machine_migrates_through_commands_that_half_close(bool verify)
    {
        using var pair = new Pair(new TestMachine(mebibytes: 16), new TestMachine(mebibytes: 16, running: false));
        pair.SourceMachine.Fill(5);
        pair.SourceMachine.AddDirtyingVcpu(6, pages: 512);
        (string source, string destination) = Relay();
        pair.Destination.Listen(destination);
        Assert.Equal(destination, pair.Address);
        pair.Source.Parameters = new MigrationParameters { VerifyPages = verify, DowntimeLimit = TimeSpan.FromSeconds(10) };
        pair.Source.Start(source);
        pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        pair.WaitForDestination(MigrationState.Completed);
        Assert.False(pair.SourceMachine.Executing);
        Assert.True(pair.DestinationMachine.Executing);
        AssertNobodyLeft();
    }

    [Fact]
    public void A_command_that_ends_is_named_with_its_status()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Source.Start("exec:exit 42");
        pair.WaitForSource(MigrationState.Failed);
        Assert.Contains("the command 'exit 42' ended with status 42", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(pair.SourceMachine.Executing);

        // The only connection there will be: the destination is of no use any more and says so.
        pair.Destination.Listen("exec:exit 43");
        pair.WaitForDestination(MigrationState.Failed);
        Assert.True(SpinWait.SpinUntil(() => !pair.IncomingFailures.IsEmpty, Pair.Patience));
        Assert.Contains("the command 'exit 43' ended with status 43", Assert.Single(pair.IncomingFailures), StringComparison.Ordinal);
    }

    [Fact]
    public void A_command_that_hangs_is_ended_by_a_cancel()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Source.Start($"exec:sleep 1000 & sleep 1000; : {_directory.File("")}");
        pair.Source.Cancel();
        pair.WaitForSource(MigrationState.Cancelled);
        Assert.True(pair.SourceMachine.Executing);
        AssertNobodyLeft();
    }

    [Fact]
    public void A_machine_migrates_over_a_handed_pair_of_sockets()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.SourceMachine.Fill(7);
        (SocketHandle left, SocketHandle right) = SocketHandle.CreatePair();
        int source = unistd.fcntl(left, F_DUPFD, 0);
        int destination = unistd.fcntl(right, F_DUPFD, 0);
        left.Dispose();
        right.Dispose();
        pair.Destination.Listen($"fd:{destination}");
        pair.Source.Start($"fd:{source}");
        pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Null(TestMachine.FirstDifference(pair.SourceMachine, pair.DestinationMachine));
        pair.WaitForDestination(MigrationState.Completed);
    }

    [Fact]
    public void A_descriptor_that_is_no_handed_stream_socket_is_refused_and_stays()
    {
        using var clockless = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        AssertRefused((int)clockless.SafeHandle.DangerousGetHandle(), "was not handed to this process");
        AssertRefused(int.MaxValue, "no such descriptor");
        using (var file = MemFd.Create("test", 4096))
            AssertRefusedDuplicate(file, "no socket");
        using var unconnected = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        using (FileDescriptor own = FileDescriptor.Adopt(unistd.fcntl_number((int)unconnected.SafeHandle.DangerousGetHandle(), F_DUPFD, 0)))
            AssertRefused(own.Number, "not connected");
        using var datagram = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        using (FileDescriptor own = FileDescriptor.Adopt(unistd.fcntl_number((int)datagram.SafeHandle.DangerousGetHandle(), F_DUPFD, 0)))
            AssertRefused(own.Number, "needs a stream");
    }

    private static void AssertRefusedDuplicate(FileDescriptor descriptor, string why)
    {
        using FileDescriptor handed = FileDescriptor.Adopt(unistd.fcntl(descriptor, F_DUPFD, 0));
        AssertRefused(handed.Number, why);
        Assert.True(unistd.fcntl(handed, unistd.F_GETFD, 0) >= 0);
    }

    private static void AssertRefused(int number, string why)
    {
        var uri = new FdMigrationUri(number);
        Assert.Contains(why, Assert.Throws<IOException>(() => InheritedSocket.Open(uri, TimeProvider.System)).Message, StringComparison.Ordinal);
        Assert.Contains(why, Assert.Throws<IOException>(() => MigrationConnector.Connect(uri, TimeProvider.System, default)).Message, StringComparison.Ordinal);
    }

    /// <summary>Every command of the test names its directory.</summary>
    private void AssertNobodyLeft()
    {
        string[] left = [];
        Assert.True(SpinWait.SpinUntil(() => (left = Commands()).Length == 0, Pair.Patience), string.Join('\n', left));
    }

    private string[] Commands()
    {
        string mark = _directory.File("");
        var found = new List<string>();
        foreach (string process in Directory.EnumerateDirectories("/proc").Where(name => char.IsAsciiDigit(name[^1])))
        {
            try
            {
                string line = File.ReadAllText(Path.Combine(process, "cmdline")).Replace('\0', ' ');
                if (line.Contains(mark, StringComparison.Ordinal))
                    found.Add(line);
            }
            catch (IOException)
            {
                // It has ended meanwhile.
            }
        }

        return [.. found];
    }

    private (string Source, string Destination) Relay()
    {
        string up = _directory.File("up");
        string down = _directory.File("down");
        using (Process mkfifo = Process.Start("mkfifo", [up, down]))
        {
            Assert.True(mkfifo.WaitForExit(Pair.Patience));
            Assert.Equal(0, mkfifo.ExitCode);
        }

        // A background command's input is /dev/null unless it is named.
        return ($"exec:exec 3<&0; cat <&3 >{up} & exec cat <{down}", $"exec:exec 3<&0; cat <&3 >{down} & exec cat <{up}");
    }
}
