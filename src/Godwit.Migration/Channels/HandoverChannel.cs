using System.Net.Sockets;
using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>The connection of a <c>local:</c> address: between two processes of one user, with descriptors beside the bytes.</summary>
internal static class HandoverChannel
{
    /// <summary>Takes over a connected unix socket; null, and the socket closed, when another user is at its other end.</summary>
    internal static MigrationChannel? Open(Socket socket, TimeProvider clock)
    {
        try
        {
            if (MayHaveRam(Interop.Linux.socket.PeerOf(socket.SafeHandle).uid, unistd.geteuid()))
                return new MigrationChannel(socket, clock, files: new FilePassage());
        }
        catch
        {
            socket.Dispose();
            throw;
        }

        socket.Dispose();
        return null;
    }

    /// <summary>Whoever has the files has all of the guest, and could change it at any time.</summary>
    internal static bool MayHaveRam(uint peer, uint own) => peer == own;
}
