using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>The way to a device.</summary>
internal static class DeviceSocket
{
    /// <summary>Connects to a device's socket.</summary>
    /// <param name="path">Where it is.</param>
    /// <param name="timeout">How long the device may take to accept.</param>
    /// <exception cref="LinuxException">There is no socket (ENOENT, ENOTSOCK), nobody listens (ECONNREFUSED), or no answer came in time (EAGAIN).</exception>
    public static SocketHandle Connect(string path, TimeSpan timeout)
    {
        try
        {
            return SocketHandle.Connect(path, timeout);
        }
        catch (LinuxException e) when (e.Errno == Errno.ECONNREFUSED && stat.At(path) is { IsSocket: false })
        {
            // The kernel has one answer for a socket without a listener and for what is no socket at all.
            throw new LinuxException("connect", $"{path}, which is no socket", Errno.ENOTSOCK);
        }
    }
}
