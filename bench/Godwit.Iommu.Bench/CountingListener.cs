using Godwit.Memory;

namespace Godwit.Iommu.Bench;

/// <summary>A shadow user that only counts, so that what is measured is the unit.</summary>
internal sealed class CountingListener : IIommuListener
{
    internal long Events { get; private set; }

    public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights) => Events++;

    public void Unmapped(Iova iova, ulong length) => Events++;
}
