using System.Runtime.InteropServices;

namespace Godwit.VfioUser;

/// <summary>The 16 bytes in front of every message (vfio-user specification, "Header").</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct MessageHeader
{
    /// <summary>Bytes of a header, which is also the smallest message.</summary>
    public const int Size = 16;

    /// <summary>Chosen by the sender of a command, echoed in the reply.</summary>
    public ushort Id;

    public Command Command;

    /// <summary>Bytes of the whole message, header included.</summary>
    public uint Length;

    public HeaderFlags Flags;

    /// <summary>Error number of a reply with <see cref="HeaderFlags.Error"/>.</summary>
    public uint Error;

    public readonly bool IsReply => (Flags & HeaderFlags.TypeMask) == HeaderFlags.Reply;

    public readonly bool IsCommand => (Flags & HeaderFlags.TypeMask) == HeaderFlags.Command;

    public readonly bool WantsReply => (Flags & HeaderFlags.NoReply) == 0;

    /// <summary>The error of a reply; an error flag without a number counts as EIO.</summary>
    public readonly Interop.Linux.Errno ReplyErrno => (Flags & HeaderFlags.Error) == 0
        ? Interop.Linux.Errno.None
        : Error is 0 or > 4095 ? Interop.Linux.Errno.EIO : (Interop.Linux.Errno)Error;
}
