using System.Net.Sockets;

namespace Godwit.Interop.Linux.Tests;

/// <summary>Descriptors and credentials over a socket that is the runtime's.</summary>
public sealed class PassedFilesTests
{
    [Fact]
    public void Files_come_with_the_bytes_they_were_sent_with_and_the_peer_is_known()
    {
        (Socket left, Socket right) = Connect();
        using (left)
        using (right)
        using (MemFd file = MemFd.Create("passed", 4096))
        {
            ucred peer = socket.PeerOf(left.SafeHandle);
            Assert.Equal((Environment.ProcessId, unistd.geteuid()), (peer.pid, peer.uid));
            left.Send([1, 2]);
            Assert.Equal(2, socket.SendWithFiles(left.SafeHandle, [3, 4], [file, file]));
            left.Send([5]);

            var files = new List<FileDescriptor>();
            byte[] bytes = new byte[16];
            int got = 0;
            while (got < 5)
            {
                got += socket.ReceiveWithFiles(right.SafeHandle, bytes.AsSpan(got), files, 8, out bool truncated);
                Assert.False(truncated);
                Assert.True(got < 3 || files.Count == 2, "the files come no later than the first byte they were sent with");
            }

            Assert.Equal([1, 2, 3, 4, 5], bytes[..5]);
            Assert.All(files, received => Assert.Equal(stat.Of(file).Inode, stat.Of(received).Inode));
            Assert.All(files, received => Assert.Equal(unistd.FD_CLOEXEC, unistd.fcntl(received, unistd.F_GETFD, 0)));
            files.ForEach(received => received.Dispose());
        }
    }

    [Fact]
    public void More_files_than_are_taken_are_told_and_the_rest_is_gone()
    {
        (Socket left, Socket right) = Connect();
        using (left)
        using (right)
        using (MemFd file = MemFd.Create("passed", 4096))
        {
            socket.SendWithFiles(left.SafeHandle, [1], [file, file, file]);
            var files = new List<FileDescriptor>();
            Assert.Equal(1, socket.ReceiveWithFiles(right.SafeHandle, new byte[4], files, 1, out bool truncated));
            Assert.True(truncated);
            files.ForEach(received => received.Dispose());
            left.Shutdown(SocketShutdown.Send);
            Assert.Equal(0, socket.ReceiveWithFiles(right.SafeHandle, new byte[4], files, 1, out truncated));
            Assert.False(truncated);
        }
    }

    private static (Socket Left, Socket Right) Connect()
    {
        string path = Path.Combine(Path.GetTempPath(), $"godwit-passed-{Guid.NewGuid():n}.sock");
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        try
        {
            listener.Listen();
            var left = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            left.Connect(new UnixDomainSocketEndPoint(path));
            return (left, listener.Accept());
        }
        finally
        {
            File.Delete(path);
        }
    }
}
