using System.Collections.Immutable;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>What a guest may make a device reach.</summary>
/// <param name="LastIova">Last address that the vIOMMU translates; null without a vIOMMU that translates, or when it has no limit.</param>
/// <param name="Ram">Guest RAM by GPA, which is also its IOVA while the vIOMMU is off or passes through.</param>
internal readonly record struct GuestReach(Iova? LastIova, ImmutableArray<BusRange> Ram)
{
    /// <summary>Bytes of RAM.</summary>
    public ulong RamBytes => Ram.Aggregate(0UL, (sum, range) => sum + (ulong)range.Length);

    /// <summary>Behind a vIOMMU with <paramref name="attributes"/>, or none.</summary>
    public static GuestReach Of(IommuAttributes? attributes, FlatView system) => new(
        attributes is { TranslatesDma: true } translating ? translating.LastIova : null,
        [.. system.Ranges.Where(r => r.Region is RamRegion).Select(r => r.Range)]);
}
