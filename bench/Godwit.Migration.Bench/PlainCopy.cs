using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Godwit.Memory;

namespace Godwit.Migration.Bench;

/// <summary>
/// The yardstick: the same bytes over the same kind of socket, straight from RAM, into fresh RAM, with nothing checked, looked at or counted.
/// </summary>
internal static unsafe class PlainCopy
{
    private const int Piece = 256 << 10;
    private const int SocketBuffer = 4 << 20;

    /// <summary>The receiving process.</summary>
    public static void Receive(string uri, ulong bytes)
    {
        using var machine = new IdleMachine(bytes);
        (Socket listener, EndPoint end) = Link.Open(uri);
        using Socket listening = listener;
        listener.Bind(end);
        listener.Listen();
        Console.Out.WriteLine("ready");
        using Socket socket = listener.Accept();
        SetBuffers(socket);
        RamBlock block = machine.Block;
        for (ulong done = 0; done < bytes;)
        {
            // SAFETY: done is below the block's size, and no more than the rest is read.
            int read = socket.Receive(new Span<byte>(block.Pointer + done, (int)Math.Min(1 << 20, bytes - done)));
            if (read == 0)
                throw new IOException($"The sender closed after {done} of {bytes} bytes");
            done += (ulong)read;
        }

        socket.Send([1]);
        Console.Out.WriteLine(Usage.Now());
    }

    /// <summary>Sends all of <paramref name="machine"/>'s RAM; returns when the receiver has it.</summary>
    public static TimeSpan Send(string uri, IdleMachine machine)
    {
        (Socket opened, EndPoint end) = Link.Open(uri);
        using Socket socket = opened;
        long began = Stopwatch.GetTimestamp();
        socket.Connect(end);
        SetBuffers(socket);
        RamBlock block = machine.Block;
        for (ulong done = 0; done < block.Size;)
        {
            // SAFETY: the block's size is a multiple of the piece.
            done += (ulong)socket.Send(new ReadOnlySpan<byte>(block.Pointer + done, Piece));
        }

        byte[] answer = new byte[1];
        if (socket.Receive(answer) != 1)
            throw new IOException("The receiver closed without an answer");
        return Stopwatch.GetElapsedTime(began);
    }

    private static void SetBuffers(Socket socket)
    {
        socket.SendBufferSize = SocketBuffer;
        socket.ReceiveBufferSize = SocketBuffer;
    }
}
