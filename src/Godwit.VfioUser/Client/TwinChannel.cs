using System.Buffers;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The twin socket: the device's commands on a socket of their own, so that they and the client's commands cannot get in each other's
/// way. One thread receives, answers and receives again; the device's next command waits in the socket meanwhile.
/// </summary>
internal sealed class TwinChannel : IMessageSender, IDisposable
{
    private readonly SocketHandle _socket;
    private readonly ClientConnection _connection;
    private readonly DmaAnswers _answers;
    private readonly MessageReceiver _receiver;
    private readonly Thread _thread;

    /// <summary>Serves the device's commands from <paramref name="socket"/>, which is this one's from now on.</summary>
    /// <param name="socket">The socket.</param>
    /// <param name="connection">Ends when this socket breaks or breaks the protocol.</param>
    /// <param name="answers">Answers.</param>
    /// <param name="sendTimeout">How long the device may leave this socket full.</param>
    public TwinChannel(SocketHandle socket, ClientConnection connection, DmaAnswers answers, TimeSpan sendTimeout)
    {
        _socket = socket;
        _connection = connection;
        _answers = answers;
        _receiver = new MessageReceiver(socket);
        socket.SetSendTimeout(sendTimeout);
        _thread = new Thread(Run) { IsBackground = true, Name = "vfio-user twin" };
        _thread.Start();
    }

    /// <inheritdoc/>
    public void Send(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, ReadOnlySpan<FileDescriptor> files) => _socket.Send(first, second, files);

    /// <summary>Ends the thread after the answer in hand; the connection has ended.</summary>
    public void Dispose()
    {
        _socket.Shutdown();
        if (_thread != Thread.CurrentThread)
            _thread.Join();
        _receiver.Dispose();
        _socket.Dispose();
    }

    private void Run()
    {
        var files = new List<FileDescriptor>();
        try
        {
            while (ServeOne(files))
            {
            }
        }
        catch (LinuxException e)
        {
            _connection.Fail($"the twin socket: {e.Message}");
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // The handler is the VMM's code: its fault is not the device's, but the device cannot go on without an answer.
            _connection.Fail($"answering on the twin socket failed: {e.Message}");
        }
        foreach (FileDescriptor file in files)
            file.Dispose();
    }

    private bool ServeOne(List<FileDescriptor> files)
    {
        bool there = _receiver.ReadHeader(out MessageHeader header, files, out _);
        foreach (FileDescriptor file in files)
            file.Dispose(); // no command of the device's comes with any
        files.Clear();
        if (!there)
        {
            _connection.Fail("the device closed the twin socket");
            return false;
        }
        if (!header.IsCommand || header.Length is < MessageHeader.Size or > MessageHeader.Size + WireLimits.MaxBody)
        {
            _connection.Fail($"on the twin socket came {header.Command.Name()} of {header.Length} bytes with flags 0x{(uint)header.Flags:x}", protocol: true);
            return false;
        }
        int length = (int)header.Length - MessageHeader.Size;
        byte[] body = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            if (!_receiver.Read(body.AsSpan(0, length)))
            {
                _connection.Fail("the device closed the twin socket in the middle of a message");
                return false;
            }
            _answers.Answer(header, body.AsSpan(0, length), this);
            return true;
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(body);
        }
    }
}
