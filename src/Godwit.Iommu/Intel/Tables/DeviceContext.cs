using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>What becomes of a function's DMA.</summary>
internal enum DmaMode
{
    /// <summary>None of it passes: no usable entry, or abort-DMA mode (VT-d 3.4.4).</summary>
    Blocked,

    /// <summary>Through a page table.</summary>
    Translated,

    /// <summary>Untranslated.</summary>
    PassThrough,
}

/// <summary>
/// The verdict on a function's root, context and PASID entries: what the context and PASID caches hold. Immutable, and two that compare
/// equal treat all DMA alike.
/// </summary>
/// <param name="Mode">What becomes of DMA.</param>
/// <param name="Fault">The reason, if it is blocked.</param>
/// <param name="FaultDisabled">FPD of an entry on the way: qualified faults are not recorded.</param>
internal sealed record DeviceContext(DmaMode Mode, FaultReason Fault, bool FaultDisabled)
{
    /// <summary>The requester that it was found for.</summary>
    internal ushort SourceId { get; init; }

    /// <summary>The domain that tags its cached translations. Of a blocked one 0, which in caching mode tags what is not present (VT-d 6.1).</summary>
    internal ushort Domain { get; init; }

    /// <summary>The PASID that requests without one get; 0 in legacy mode.</summary>
    internal uint Pasid { get; init; }

    /// <summary>The table, when translated.</summary>
    internal PageTable Table { get; init; }

    internal bool IsBlocked => Mode == DmaMode.Blocked;

    internal bool IsPassThrough => Mode == DmaMode.PassThrough;

    internal bool IsTranslated => Mode == DmaMode.Translated;

    internal bool UsesFirstStage => IsTranslated && Table.Stage == TableStage.First;

    internal static DeviceContext Blocked(FaultReason fault, bool faultDisabled = false) => new(DmaMode.Blocked, fault, faultDisabled);
}
