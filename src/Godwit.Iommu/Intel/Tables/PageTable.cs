using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>Which format a table has, and which fault reasons its walk gives.</summary>
internal enum TableStage : byte
{
    /// <summary>Second stage of a legacy context (VT-d 3.7).</summary>
    LegacySecond,

    /// <summary>Second stage of a PASID entry.</summary>
    Second,

    /// <summary>First stage (VT-d 3.6).</summary>
    First,
}

/// <summary>A guest's page table as a context or PASID entry describes it.</summary>
/// <param name="Stage">Its format.</param>
/// <param name="Root">GPA of its root.</param>
/// <param name="Levels">3 to 5; 4 or 5 for the first stage.</param>
/// <param name="InputBits">Input addresses have this many bits; of a first stage that is the lower canonical half.</param>
/// <param name="SnoopBit">Bit 11 of second-stage leaves is no reserved bit (ECAP.SC).</param>
internal readonly record struct PageTable(TableStage Stage, ulong Root, int Levels, int InputBits, bool SnoopBit)
{
    internal static PageTable SecondStage(TableStage stage, ulong root, int addressWidthCode, IntelIommuOptions options)
    {
        int levels = addressWidthCode + 2;
        return new PageTable(stage, root, levels, Math.Min(options.AddressWidth, SecondStageEntry.PageShift(levels + 1)), options.SnoopControl);
    }

    internal static PageTable FirstStage(ulong root, int levels, IntelIommuOptions options) =>
        new(TableStage.First, root, levels, Math.Min(options.AddressWidth, SecondStageEntry.PageShift(levels + 1) - 1), SnoopBit: false);
}
