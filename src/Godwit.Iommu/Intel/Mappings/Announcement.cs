using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// One leaf that shadow users were told of, in 16 bytes: IOVA with the leaf's level in the low bits, GPA with the rights in the low bits.
/// Ordered by IOVA; announcements of one device never overlap.
/// </summary>
internal readonly record struct Announcement(ulong Key, ulong Value)
{
    internal Announcement(Iova iova, int level, Gpa target, AccessRights rights)
        : this(iova.Value | (uint)level, target.Value | (uint)rights)
    {
    }

    internal Iova First => new(Key & ~0xFFFUL);

    internal int Level => (int)(Key & 3);

    internal ulong Length => Spec.SecondStageEntry.PageBytes(Level);

    internal Iova Last => new(First.Value + (Length - 1));

    internal Gpa Target => new(Value & ~0xFFFUL);

    internal AccessRights Rights
    {
        get => (AccessRights)(Value & 3);
        init => Value = (Value & ~3UL) | (uint)value;
    }
}
