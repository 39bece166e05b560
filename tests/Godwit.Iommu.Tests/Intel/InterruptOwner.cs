using Godwit.Iommu.Intel.Interrupts;

namespace Godwit.Iommu.Tests;

/// <summary>Keeps what a unit says to whom its interrupt table belongs.</summary>
internal sealed class InterruptOwner : IInterruptTableOwner
{
    internal InterruptRemappingState State { get; private set; }

    internal List<(int First, int Last)> Invalidated { get; } = [];

    public void Configure(in InterruptRemappingState state) => State = state;

    public void InvalidateEntries(int first, int last) => Invalidated.Add((first, last));
}
