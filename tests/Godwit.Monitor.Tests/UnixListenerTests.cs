using System.Net.Sockets;

namespace Godwit.Monitor.Tests;

public sealed class UnixListenerTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("godwit-listener-").FullName;

    private string SocketPath => Path.Combine(_directory, "socket");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public void A_file_that_is_no_socket_is_left_alone()
    {
        File.WriteAllText(SocketPath, "precious");
        IOException refused = Assert.Throws<IOException>(() => UnixListener.Open(SocketPath));
        Assert.Contains(SocketPath, refused.Message, StringComparison.Ordinal);
        Assert.Contains("not a socket", refused.Message, StringComparison.Ordinal);
        Assert.Equal("precious", File.ReadAllText(SocketPath));
    }

    [Fact]
    public void A_directory_is_left_alone() => Assert.Contains("not a socket", Assert.Throws<IOException>(() => UnixListener.Open(_directory)).Message, StringComparison.Ordinal);

    [Fact]
    public void A_socket_that_nobody_listens_on_is_replaced()
    {
        using (var dead = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            // Renamed, so that its owner does not find it when it cleans up, as after a crash.
            dead.Bind(new UnixDomainSocketEndPoint(SocketPath + ".bound"));
            File.Move(SocketPath + ".bound", SocketPath);
        }

        Assert.True(File.Exists(SocketPath));
        using UnixListener listener = UnixListener.Open(SocketPath);
        using var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        client.Connect(new UnixDomainSocketEndPoint(SocketPath));
    }

    [Fact]
    public void A_socket_in_use_is_left_to_its_owner()
    {
        using UnixListener first = UnixListener.Open(SocketPath);
        IOException refused = Assert.Throws<IOException>(() => UnixListener.Open(SocketPath));
        Assert.Contains("another process", refused.Message, StringComparison.Ordinal);
        Assert.True(File.Exists(SocketPath));
    }

    [Fact]
    public void Only_the_owner_may_use_it()
    {
        using UnixListener listener = UnixListener.Open(SocketPath);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(SocketPath));
    }

    [Fact]
    public void Its_file_goes_with_it()
    {
        UnixListener.Open(SocketPath).Dispose();
        Assert.False(File.Exists(SocketPath));
    }

    [Theory]
    [InlineData("")]
    [InlineData("/tmp/012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567")]
    public void A_path_that_no_socket_can_have_names_the_limit(string path) =>
        Assert.Contains("1 to 107 bytes", Assert.Throws<IOException>(() => UnixListener.Open(path)).Message, StringComparison.Ordinal);

    [Fact]
    public void A_missing_directory_is_named()
    {
        string path = Path.Combine(_directory, "no", "socket");
        Assert.Contains(path, Assert.Throws<IOException>(() => UnixListener.Open(path)).Message, StringComparison.Ordinal);
    }
}
