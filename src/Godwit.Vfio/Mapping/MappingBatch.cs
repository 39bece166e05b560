using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>What an address space said, resolved, in order.</summary>
internal enum MappingChange
{
    /// <summary>RAM appears.</summary>
    Map,

    /// <summary>Something appears that the device cannot reach.</summary>
    MapUnreachable,

    /// <summary>Everything in the range goes.</summary>
    Unmap,
}

/// <summary>One change.</summary>
/// <param name="Change">Its kind.</param>
/// <param name="Iova">Where.</param>
/// <param name="Ram">For <see cref="MappingChange.Map"/>: the first page behind it.</param>
/// <param name="Writable">For <see cref="MappingChange.Map"/>: whether the device may write.</param>
/// <param name="Reason">For <see cref="MappingChange.MapUnreachable"/>: why.</param>
internal readonly record struct MappingOperation(MappingChange Change, IovaPages Iova, RamPage Ram, bool Writable, NotInstalledReason Reason)
{
    /// <summary>RAM appears.</summary>
    public static MappingOperation Map(in Mapping mapping) => new(MappingChange.Map, mapping.Iova, mapping.Ram, mapping.Writable, default);

    /// <summary>Something appears that the device cannot reach.</summary>
    public static MappingOperation Unreachable(IovaPages iova, NotInstalledReason reason) =>
        new(MappingChange.MapUnreachable, iova, default, false, reason);

    /// <summary>Everything in the range goes.</summary>
    public static MappingOperation Unmap(IovaPages iova) => new(MappingChange.Unmap, iova, default, false, default);
}
