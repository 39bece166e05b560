using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>A device did not make a transition of its migration state. The text names device, phase, arc, what it answered and where it is.</summary>
public sealed class MigrationPhaseException : IOException
{
    internal MigrationPhaseException(string device, MigrationPhase phase, DeviceMigrationState from, DeviceMigrationState to, DeviceMigrationState left, Exception inner)
        : base($"{device}: {phase.Name}: from {MigrationArcs.Name(from)} to {MigrationArcs.Name(to)}: {inner.Message}; the device is now in {MigrationArcs.Name(left)}", inner)
    {
        From = from;
        To = to;
        Left = left;
    }

    /// <summary>State before the arc.</summary>
    public DeviceMigrationState From { get; }

    /// <summary>State that the arc leads to.</summary>
    public DeviceMigrationState To { get; }

    /// <summary>State that the device was left in.</summary>
    public DeviceMigrationState Left { get; }
}
