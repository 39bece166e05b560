using System.Buffers;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Sends whole messages.</summary>
internal interface IMessageSender
{
    /// <summary>Sends <paramref name="first"/>, which begins with the header, and <paramref name="second"/> as one message.</summary>
    void Send(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, ReadOnlySpan<FileDescriptor> files);
}

/// <summary>What the client answers to the device's commands: DMA_READ and DMA_WRITE. Any thread.</summary>
internal sealed class DmaAnswers(IDmaMessageHandler handler)
{
    /// <summary>Answers one command.</summary>
    /// <param name="header">Its header.</param>
    /// <param name="body">Its body, bounded by the receiver.</param>
    /// <param name="sender">Where the answer goes.</param>
    public void Answer(MessageHeader header, ReadOnlySpan<byte> body, IMessageSender sender)
    {
        if (header.Command is not (Command.DmaRead or Command.DmaWrite))
        {
            Reply(sender, header, Errno.ENOSYS, []);
            return;
        }
        if (!Wire.TryTake(body, out DmaAccessBody access, out ReadOnlySpan<byte> data))
        {
            Reply(sender, header, Errno.EINVAL, []);
            return;
        }
        if (access.Count > WireLimits.MaxTransfer)
        {
            Reply(sender, header, Errno.E2BIG, []);
            return;
        }
        if (access.Address + access.Count < access.Address && access.Address + access.Count != 0)
        {
            Reply(sender, header, Errno.EINVAL, []);
            return;
        }
        if (header.Command == Command.DmaWrite)
            AnswerWrite(sender, header, access, data);
        else
            AnswerRead(sender, header, access);
    }

    private void AnswerWrite(IMessageSender sender, MessageHeader header, DmaAccessBody access, ReadOnlySpan<byte> data)
    {
        if ((ulong)data.Length != access.Count)
        {
            Reply(sender, header, Errno.EINVAL, []);
            return;
        }
        Errno result = handler.Write(new DmaAddress(access.Address), data);
        Reply(sender, header, result, MemoryMarshal.AsBytes(new ReadOnlySpan<DmaAccessBody>(in access)));
    }

    private void AnswerRead(IMessageSender sender, MessageHeader header, DmaAccessBody access)
    {
        int count = (int)access.Count;
        byte[] buffer = ArrayPool<byte>.Shared.Rent(16 + count);
        try
        {
            Wire.Put(buffer, access);
            Errno result = handler.Read(new DmaAddress(access.Address), buffer.AsSpan(16, count));
            Reply(sender, header, result, buffer.AsSpan(0, 16 + count));
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    private static void Reply(IMessageSender sender, MessageHeader command, Errno error, ReadOnlySpan<byte> body)
    {
        if (!command.WantsReply)
            return;
        if (error != Errno.None)
            body = [];
        var header = new MessageHeader
        {
            Id = command.Id,
            Command = command.Command,
            Length = (uint)(MessageHeader.Size + body.Length),
            Flags = HeaderFlags.Reply | (error == Errno.None ? 0 : HeaderFlags.Error),
            Error = (uint)error,
        };
        sender.Send(MemoryMarshal.AsBytes(new ReadOnlySpan<MessageHeader>(in header)), body, []);
    }
}
