using Godwit.Migration;

namespace Godwit.Machine.State;

/// <summary>The vIOMMU has failed: what the devices have of the guest's mappings is not known, so nothing of it can be saved.</summary>
public sealed record IommuFailedBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "iommu-failed";

    /// <summary>What went wrong.</summary>
    public required string Cause { get; init; }

    /// <inheritdoc/>
    public override string Reason => $"The vIOMMU has failed: {Cause}";

    /// <inheritdoc/>
    public override string WayOut => "Restart the machine";
}
