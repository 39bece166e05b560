using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// Answers the device's DMA by message, for memory it could not map. Called on one thread of the connection, which is not the one that
/// receives replies: it may take locks that are held by threads waiting for the device.
/// </summary>
public interface IDmaMessageHandler
{
    /// <summary>
    /// Reads guest memory at <paramref name="address"/>, filling all of <paramref name="destination"/> (at most 1 MiB, no wrap);
    /// <see cref="Errno.None"/> or why not.
    /// </summary>
    Errno Read(DmaAddress address, Span<byte> destination);

    /// <summary>Writes likewise. Dirty marks of these writes are the client's to set.</summary>
    Errno Write(DmaAddress address, ReadOnlySpan<byte> data);
}
