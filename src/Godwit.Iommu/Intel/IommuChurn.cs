namespace Godwit.Iommu.Intel;

/// <summary>Shadow mappings announced to passthrough devices.</summary>
/// <param name="Live">Announced now.</param>
/// <param name="Mapped">Announced since the unit was created.</param>
/// <param name="Unmapped">Withdrawn since the unit was created.</param>
/// <param name="Refused">Leaves left out because tables were aliased beyond what guest RAM can hold (see the walk budget).</param>
public readonly record struct IommuChurn(long Live, long Mapped, long Unmapped, long Refused);
