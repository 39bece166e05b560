using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>A unix socket's entry in the file system.</summary>
internal static class SocketFile
{
    /// <summary>Whether a socket is at <paramref name="path"/>; false when something else or nothing is.</summary>
    internal static bool IsSocket(string path) => stat.At(path) is { IsSocket: true };
}
