using System.Text;

namespace Godwit.Interop.Linux.Tests;

public sealed class ChildProcessTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    [Fact]
    public void Its_input_and_output_are_the_descriptor()
    {
        (SocketHandle mine, SocketHandle theirs) = SocketHandle.CreatePair();
        using SocketHandle connection = mine;
        using ChildProcess child = ChildProcess.Start("/bin/sh", ["sh", "-c", "read line; echo \"heard $line\"; exit 3"], theirs);
        theirs.Dispose();
        connection.Send("hello\n"u8);
        var heard = new StringBuilder();
        byte[] buffer = new byte[64];
        while (connection.Receive(buffer) is > 0 and var count)
            heard.Append(Encoding.UTF8.GetString(buffer, 0, count));
        Assert.Equal("heard hello\n", heard.ToString());
        Assert.True(child.WaitForEnd(Patience));
        Assert.Equal("status 3", child.End);
    }

    [Fact]
    public void Disposing_ends_it_and_what_it_has_started()
    {
        (SocketHandle mine, SocketHandle theirs) = SocketHandle.CreatePair();
        using SocketHandle connection = mine;
        ChildProcess child = ChildProcess.Start("/bin/sh", ["sh", "-c", "sleep 1000 & echo started; wait"], theirs);
        theirs.Dispose();
        byte[] buffer = new byte[64];
        Assert.True(connection.Receive(buffer) > 0);
        Assert.Null(child.End);
        child.Dispose();
        child.Dispose();
        Assert.Equal("signal 9", child.End);
        // Both held the other end; it is closed when both are gone.
        connection.SetReceiveTimeout(Patience);
        while (connection.Receive(buffer) > 0)
        {
        }
    }

    /// <summary>The runtime ignores SIGPIPE; a shell that inherited that would say so instead of ending.</summary>
    [Fact]
    public void Signals_are_as_a_program_expects_them()
    {
        (SocketHandle mine, SocketHandle theirs) = SocketHandle.CreatePair();
        mine.Dispose();
        using ChildProcess child = ChildProcess.Start("/bin/sh", ["sh", "-c", "kill -PIPE $$; exit 5"], theirs);
        theirs.Dispose();
        Assert.True(child.WaitForEnd(Patience));
        Assert.Equal("signal 13", child.End);
    }

    [Fact]
    public void A_program_that_is_not_there_is_named()
    {
        (SocketHandle mine, SocketHandle theirs) = SocketHandle.CreatePair();
        using (mine)
        using (theirs)
        {
            LinuxException error = Assert.Throws<LinuxException>(() => ChildProcess.Start("/no/such/program", ["x"], theirs));
            Assert.Equal(Errno.ENOENT, error.Errno);
            Assert.Contains("/no/such/program", error.Message, StringComparison.Ordinal);
        }
    }
}
