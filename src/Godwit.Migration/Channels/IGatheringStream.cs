using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>A stream that can write from several places in memory at once.</summary>
internal interface IGatheringStream
{
    /// <summary>Whether it can now; otherwise the pieces have to be written one after the other.</summary>
    bool CanGather { get; }

    /// <summary>Writes the pieces in order, all of them. The caller vouches that they stay readable until it returns; what is in them may change.</summary>
    /// <exception cref="IOException">The stream is gone.</exception>
    void Write(ReadOnlySpan<socket.iovec> pieces);
}
