using System.Buffers;

namespace Godwit.Migration;

/// <summary>State of one of the VMM's models, written while everything is stopped.</summary>
public interface IStateParticipant
{
    /// <summary>Unique id, for example <c>iommu</c> or <c>pci/00:03.0</c>; at most 255 bytes of UTF-8.</summary>
    string Id { get; }

    /// <summary>Version of the format it writes; it loads this one and those it says it can.</summary>
    int Version { get; }

    /// <summary>
    /// Whether it may also be saved while the guest runs, and loaded again and again on a destination on which nothing runs and whose RAM is
    /// that of the last round, so that the last load finds most of its work done. Another's state is loaded ahead only as the destination's own.
    /// </summary>
    bool LoadsAhead => false;

    /// <summary>Appends the state.</summary>
    void Save(IBufferWriter<byte> writer);

    /// <summary>Takes a state of <paramref name="version"/>, whatever was loaded before. Throws <see cref="InvalidDataException"/> for one that cannot be right.</summary>
    void Load(int version, ReadOnlySpan<byte> state);
}
