namespace Godwit.Migration;

/// <summary>
/// Everything that must be equal on both sides, as ordered name and value pairs (<c>ram.main.size = 1073741824</c>,
/// <c>pci.00:03.0.id = 1b36:0010</c>, <c>iommu.aw-bits = 39</c>). Compared before anything moves; every difference is listed.
/// </summary>
public sealed class MachineDescription
{
    /// <summary>Creates it from pairs with distinct names.</summary>
    public MachineDescription(IEnumerable<KeyValuePair<string, string>> entries) => throw new NotImplementedException();

    /// <summary>The pairs in order of name.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Entries => throw new NotImplementedException();

    /// <summary>Every entry that is missing on one side or differs; empty when equal.</summary>
    public static IReadOnlyList<DescriptionDifference> Compare(MachineDescription source, MachineDescription destination) => throw new NotImplementedException();
}

/// <summary>One difference; null means absent on that side.</summary>
public readonly record struct DescriptionDifference(string Name, string? Source, string? Destination);
