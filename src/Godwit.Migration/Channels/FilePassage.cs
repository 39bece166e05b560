using System.Net.Sockets;
using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>
/// Descriptors that go beside the bytes of a unix socket. Those that come are kept in order until a frame says what they are: they are there when
/// the frame's bytes are, as the kernel hands them out with the byte they were sent with, or before.
/// </summary>
/// <remarks>One thread receives and one sends, as on the channel itself.</remarks>
internal sealed class FilePassage : IDisposable
{
    // For taking and disposing, which may be on different threads.
    private readonly Lock _gate = new();
    private readonly List<FileDescriptor> _arrived = [];
    private IReadOnlyList<FileDescriptor>? _leaving;
    private bool _closed;

    /// <summary>Sends <paramref name="files"/>, which stay the caller's, with the next byte that is sent.</summary>
    internal void SendWithNext(IReadOnlyList<FileDescriptor> files) => Volatile.Write(ref _leaving, files);

    /// <summary>Sends some of <paramref name="bytes"/>.</summary>
    internal int Send(Socket socket, ReadOnlySpan<byte> bytes)
    {
        if (Interlocked.Exchange(ref _leaving, null) is not { } files)
            return socket.Send(bytes, SocketFlags.None);
        return Interop.Linux.socket.SendWithFiles(socket.SafeHandle, bytes, [.. files]);
    }

    /// <summary>Receives bytes, and keeps what comes beside them.</summary>
    /// <exception cref="IOException">More came than any frame may have.</exception>
    internal int Receive(Socket socket, Span<byte> bytes)
    {
        var files = new List<FileDescriptor>();
        int received = Interop.Linux.socket.ReceiveWithFiles(socket.SafeHandle, bytes, files, StreamFormat.MaxRamFiles, out bool truncated);
        bool tooMany;
        lock (_gate)
        {
            tooMany = truncated || _arrived.Count + files.Count > StreamFormat.MaxRamFiles;
            if (!tooMany && !_closed)
            {
                _arrived.AddRange(files);
                files.Clear();
            }
        }

        foreach (FileDescriptor file in files)
            file.Dispose();
        return tooMany
            ? throw new IOException($"The peer sent more than {StreamFormat.MaxRamFiles} descriptors, or this process has no room for them")
            : received;
    }

    /// <summary>Everything that has come; the caller's from here on.</summary>
    internal IReadOnlyList<FileDescriptor> Take()
    {
        lock (_gate)
        {
            FileDescriptor[] files = [.. _arrived];
            _arrived.Clear();
            return files;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _closed = true;
            foreach (FileDescriptor file in _arrived)
                file.Dispose();
            _arrived.Clear();
        }
    }
}
