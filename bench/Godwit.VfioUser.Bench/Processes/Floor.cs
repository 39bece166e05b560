using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>
/// What the machine can do at best: messages of the same sizes to another process and back over the same kind of socket, and nothing done about them
/// there. The first 8 bytes of a message say how long it is and how long the answer is to be.
/// </summary>
internal static class Floor
{
    /// <summary>Messages under way at once, as many as a client of this protocol has before it reads answers: a socket holds about 200.</summary>
    private const int Window = 96;

    private const int Room = 128 * 1024;
    private const int FilesInMessage = 16;

    /// <summary>The other process.</summary>
    /// <param name="path">Of its socket.</param>
    /// <param name="files">Whether descriptors come along; they are closed.</param>
    public static void Serve(string path, bool files)
    {
        using SocketHandle listener = SocketHandle.Listen(path, 1);
        OtherProcess.SayReady();
        using SocketHandle socket = listener.Accept();
        byte[] buffer = new byte[Room];
        int[] numbers = new int[FilesInMessage];
        int got = 0;
        while (true)
        {
            int count = 0;
            int now = files ? socket.Receive(buffer.AsSpan(got), numbers, out count, out _) : socket.Receive(buffer.AsSpan(got));
            if (now == 0)
                return;
            for (int i = 0; i < count; i++)
                FileDescriptor.Adopt(numbers[i]).Dispose();
            got += now;
            int at = 0;
            for (int length; got - at >= 8 && got - at >= (length = BitConverter.ToInt32(buffer, at)); at += length)
                socket.Send(buffer.AsSpan(0, BitConverter.ToInt32(buffer, at + 4)));
            buffer.AsSpan(at, got - at).CopyTo(buffer);
            got -= at;
        }
    }

    /// <summary>One message and its answer.</summary>
    public static Action Ping(SocketHandle socket, int requestSize, int replySize)
    {
        byte[] request = Request(requestSize, replySize);
        byte[] reply = new byte[replySize];
        return () =>
        {
            socket.Send(request);
            for (int got = 0; got < replySize;)
                got += socket.Receive(reply.AsSpan(got));
        };
    }

    /// <summary>Many messages without waiting for each answer, each with a descriptor if there is one, and all their answers.</summary>
    public static Action Pipelined(SocketHandle socket, int count, int requestSize, int replySize, FileDescriptor? file)
    {
        byte[] request = Request(requestSize, replySize);
        byte[] replies = new byte[16 * 1024];
        FileDescriptor[] files = file is null ? [] : [file];
        return () =>
        {
            int answered = 0; // in bytes
            for (int sent = 1; sent <= count; sent++)
            {
                socket.Send(request, [], files);
                while (answered < (sent == count ? count : sent - Window) * replySize)
                    answered += socket.Receive(replies);
            }
        };
    }

    private static byte[] Request(int requestSize, int replySize)
    {
        byte[] request = new byte[requestSize];
        BitConverter.TryWriteBytes(request, requestSize);
        BitConverter.TryWriteBytes(request.AsSpan(4), replySize);
        return request;
    }
}
