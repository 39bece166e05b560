using System.Diagnostics.CodeAnalysis;

namespace Godwit.VfioUser;

/// <summary>The arcs of the migration state machine and the ways composed of them (linux/vfio.h, enum vfio_device_mig_state).</summary>
internal static class MigrationArcs
{
    /// <summary>States by number, 0 to 7.</summary>
    public const int StateCount = (int)DeviceMigrationState.PreCopyP2P + 1;

    private static readonly (DeviceMigrationState From, DeviceMigrationState To)[] Common =
    [
        (DeviceMigrationState.Stop, DeviceMigrationState.StopCopy),
        (DeviceMigrationState.StopCopy, DeviceMigrationState.Stop),
        (DeviceMigrationState.Stop, DeviceMigrationState.Resuming),
        (DeviceMigrationState.Resuming, DeviceMigrationState.Stop),
    ];

    private static readonly (DeviceMigrationState From, DeviceMigrationState To)[] WithoutP2P =
    [
        (DeviceMigrationState.Running, DeviceMigrationState.Stop),
        (DeviceMigrationState.Stop, DeviceMigrationState.Running),
    ];

    private static readonly (DeviceMigrationState From, DeviceMigrationState To)[] WithP2P =
    [
        (DeviceMigrationState.Running, DeviceMigrationState.RunningP2P),
        (DeviceMigrationState.RunningP2P, DeviceMigrationState.Running),
        (DeviceMigrationState.RunningP2P, DeviceMigrationState.Stop),
        (DeviceMigrationState.Stop, DeviceMigrationState.RunningP2P),
    ];

    private static readonly (DeviceMigrationState From, DeviceMigrationState To)[] WithPreCopy =
    [
        (DeviceMigrationState.Running, DeviceMigrationState.PreCopy),
        (DeviceMigrationState.PreCopy, DeviceMigrationState.Running),
    ];

    private static readonly (DeviceMigrationState From, DeviceMigrationState To)[] WithPreCopyOnly =
    [
        (DeviceMigrationState.PreCopy, DeviceMigrationState.StopCopy),
    ];

    private static readonly (DeviceMigrationState From, DeviceMigrationState To)[] WithBoth =
    [
        (DeviceMigrationState.RunningP2P, DeviceMigrationState.PreCopyP2P),
        (DeviceMigrationState.PreCopyP2P, DeviceMigrationState.RunningP2P),
        (DeviceMigrationState.PreCopy, DeviceMigrationState.PreCopyP2P),
        (DeviceMigrationState.PreCopyP2P, DeviceMigrationState.PreCopy),
        (DeviceMigrationState.PreCopyP2P, DeviceMigrationState.StopCopy),
    ];

    /// <summary>Whether state is saved in <paramref name="state"/>.</summary>
    public static bool IsSaving(DeviceMigrationState state) =>
        state is DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P or DeviceMigrationState.StopCopy;

    /// <summary>Whether a device with <paramref name="support"/> has <paramref name="state"/> at all; ERROR cannot be asked for.</summary>
    public static bool Offers(MigrationSupport support, DeviceMigrationState state)
    {
        bool p2p = (support & MigrationSupport.P2P) != 0;
        bool preCopy = (support & MigrationSupport.PreCopy) != 0;
        return state switch
        {
            DeviceMigrationState.Stop or DeviceMigrationState.Running or DeviceMigrationState.StopCopy or DeviceMigrationState.Resuming => true,
            DeviceMigrationState.RunningP2P => p2p,
            DeviceMigrationState.PreCopy => preCopy,
            DeviceMigrationState.PreCopyP2P => p2p && preCopy,
            _ => false,
        };
    }

    /// <summary>
    /// The states to go through, the target last, <paramref name="from"/> not among them: the shortest way. A saving session is never
    /// begun on the way to something else; only from a pre-copy state the way to STOP_COPY stays inside its session.
    /// </summary>
    /// <returns>False when there is none, for example from STOP_COPY back to PRE_COPY, or to and from ERROR.</returns>
    public static bool TryFindWay(
        MigrationSupport support,
        DeviceMigrationState from,
        DeviceMigrationState to,
        [NotNullWhen(true)] out DeviceMigrationState[]? way)
    {
        way = null;
        if (!Offers(support, from) || !Offers(support, to))
            return false;
        bool inSession = IsSaving(from) && IsSaving(to);
        if (inSession && from == DeviceMigrationState.StopCopy && to != from)
            return false; // what has been saved cannot be taken back

        // Breadth first over eight states.
        var previous = new DeviceMigrationState?[StateCount];
        previous[(int)from] = from;
        var queue = new Queue<DeviceMigrationState>([from]);
        while (queue.TryDequeue(out DeviceMigrationState state) && state != to)
        {
            if (state != from && IsSaving(state) && !inSession)
                continue;
            foreach ((DeviceMigrationState start, DeviceMigrationState end) in Of(support))
            {
                if (start != state || previous[(int)end] is not null)
                    continue;
                previous[(int)end] = state;
                queue.Enqueue(end);
            }
        }
        if (previous[(int)to] is null)
            return false;
        var reversed = new List<DeviceMigrationState>();
        for (DeviceMigrationState state = to; state != from; state = previous[(int)state]!.Value)
            reversed.Add(state);
        reversed.Reverse();
        way = [.. reversed];
        return true;
    }

    /// <summary>The arcs of a device.</summary>
    public static IEnumerable<(DeviceMigrationState From, DeviceMigrationState To)> Of(MigrationSupport support)
    {
        bool p2p = (support & MigrationSupport.P2P) != 0;
        bool preCopy = (support & MigrationSupport.PreCopy) != 0;
        IEnumerable<(DeviceMigrationState, DeviceMigrationState)> arcs = Common.Concat(p2p ? WithP2P : WithoutP2P);
        if (preCopy)
            arcs = arcs.Concat(WithPreCopy).Concat(p2p ? WithBoth : WithPreCopyOnly);
        return arcs;
    }
}
