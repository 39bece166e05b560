using System.Buffers;

namespace Godwit.Migration;

/// <summary>State that is written once while everything is stopped.</summary>
public interface IStateParticipant
{
    /// <summary>Unique id, for example <c>iommu</c> or <c>pci/00:03.0</c>; at most 255 bytes of UTF-8.</summary>
    string Id { get; }

    /// <summary>Version of the format it writes; it loads this one and those it says it can.</summary>
    int Version { get; }

    /// <summary>Appends the state.</summary>
    void Save(IBufferWriter<byte> writer);

    /// <summary>Takes a state of <paramref name="version"/>. Throws <see cref="InvalidDataException"/> for one that cannot be right.</summary>
    void Load(int version, ReadOnlySpan<byte> state);
}
