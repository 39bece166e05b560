namespace Godwit.Memory.Tests;

/// <summary>An IOMMU region whose translation each test gives.</summary>
internal sealed class TestIommu(string name = "iommu", UInt128? size = null) : IommuRegion(name, size ?? MaxSize)
{
    internal delegate IommuTranslation Translation(Iova iova, AccessRights wanted, TransactionAttributes attributes);

    internal Translation OnTranslate { get; set; } = (iova, _, _) => new IommuTranslation(iova, default, 0, AccessRights.None);

    public override IommuAttributes Attributes => new(true, null);

    public override IommuTranslation Translate(Iova iova, AccessRights wanted, in TransactionAttributes attributes) =>
        OnTranslate(iova, wanted, attributes);

    public override void AddListener(IIommuListener listener, BusRange range) => throw new NotSupportedException();

    public override void RemoveListener(IIommuListener listener) => throw new NotSupportedException();

    /// <summary>A page-wise table; absent pages fault.</summary>
    internal void UseTable(IReadOnlyDictionary<ulong, (ulong Page, AccessRights Rights)> table) =>
        OnTranslate = (iova, _, _) => table.TryGetValue(iova.Value >> 12, out var entry)
            ? new IommuTranslation(new Iova(iova.Value & ~0xFFFUL), new Gpa(entry.Page << 12), 0xFFF, entry.Rights)
            : new IommuTranslation(iova, default, 0, AccessRights.None);
}
