using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Vfio;

/// <summary>An arc of the migration state machine: one transition that a device makes without passing another state.</summary>
internal readonly record struct MigrationArc(DeviceMigrationState From, DeviceMigrationState To);

/// <summary>The arcs of the migration state machine, version 2, as data, and the ways along them (vfio.h, enum vfio_device_mig_state).</summary>
internal static class MigrationArcs
{
    /// <summary>Arcs of every device.</summary>
    public static IReadOnlyList<MigrationArc> Basic { get; } =
    [
        new(Stop, StopCopy),
        new(StopCopy, Stop),
        new(Stop, Resuming),
        new(Resuming, Stop),
    ];

    /// <summary>Arcs of a device without P2P states.</summary>
    public static IReadOnlyList<MigrationArc> Direct { get; } = [new(Running, Stop), new(Stop, Running)];

    /// <summary>Further arcs with PRE_COPY and without P2P.</summary>
    public static IReadOnlyList<MigrationArc> DirectPreCopy { get; } = [new(PreCopy, StopCopy)];

    /// <summary>Arcs of a device with P2P states: it starts and stops through them.</summary>
    public static IReadOnlyList<MigrationArc> P2P { get; } =
    [
        new(Running, RunningP2P),
        new(RunningP2P, Running),
        new(RunningP2P, Stop),
        new(Stop, RunningP2P),
    ];

    /// <summary>Further arcs with PRE_COPY and P2P.</summary>
    public static IReadOnlyList<MigrationArc> P2PPreCopy { get; } =
    [
        new(RunningP2P, PreCopyP2P),
        new(PreCopyP2P, RunningP2P),
        new(PreCopy, PreCopyP2P),
        new(PreCopyP2P, PreCopy),
        new(PreCopyP2P, StopCopy),
    ];

    /// <summary>Arcs of every device with PRE_COPY.</summary>
    public static IReadOnlyList<MigrationArc> PreCopyAlways { get; } = [new(Running, PreCopy), new(PreCopy, Running)];

    /// <summary>The arcs of a device that offers <paramref name="support"/>.</summary>
    public static IEnumerable<MigrationArc> Of(MigrationSupport support)
    {
        if ((support & MigrationSupport.StopCopy) == 0)
            return [];
        bool p2p = (support & MigrationSupport.P2P) != 0;
        IEnumerable<MigrationArc> arcs = Basic.Concat(p2p ? P2P : Direct);
        if ((support & MigrationSupport.PreCopy) != 0)
            arcs = arcs.Concat(PreCopyAlways).Concat(p2p ? P2PPreCopy : DirectPreCopy);
        return arcs;
    }

    /// <summary>
    /// The states to go through from <paramref name="from"/> (without it) to <paramref name="to"/> (with it) by the fewest arcs; null when there
    /// is no way. Empty when it is there already. A way begins or ends in states that transfer data, but passes them only within one save,
    /// from pre-copy on.
    /// </summary>
    public static IReadOnlyList<DeviceMigrationState>? Way(MigrationSupport support, DeviceMigrationState from, DeviceMigrationState to)
    {
        if (from == to)
            return [];
        if (from == StopCopy && Precopies(to))
            return null; // what has been saved would not be what runs on
        // Breadth first over 8 states; the way back is kept by state.
        MigrationArc[] arcs = [.. Of(support)];
        var cameFrom = new Dictionary<DeviceMigrationState, DeviceMigrationState>();
        var front = new Queue<DeviceMigrationState>([from]);
        while (front.TryDequeue(out DeviceMigrationState state))
        {
            foreach (MigrationArc arc in arcs)
            {
                if (arc.From != state || arc.To == from || !cameFrom.TryAdd(arc.To, state))
                    continue;
                if (arc.To == to)
                    return Unwind(cameFrom, from, to);
                if (!TransfersData(arc.To) || (Precopies(arc.To) && Precopies(from) && (to == StopCopy || Precopies(to))))
                    front.Enqueue(arc.To);
            }
        }

        return null;
    }

    /// <summary>The name as QEMU's VFIO_MIGRATION event spells it.</summary>
    public static string Name(DeviceMigrationState state) => state switch
    {
        Error => "error",
        Stop => "stop",
        Running => "running",
        StopCopy => "stop-copy",
        Resuming => "resuming",
        RunningP2P => "running-p2p",
        PreCopy => "pre-copy",
        PreCopyP2P => "pre-copy-p2p",
        _ => throw new ArgumentOutOfRangeException(nameof(state), state, "No migration state"),
    };

    private static bool TransfersData(DeviceMigrationState state) => state is StopCopy or Resuming || Precopies(state);

    private static bool Precopies(DeviceMigrationState state) => state is PreCopy or PreCopyP2P;

    private static List<DeviceMigrationState> Unwind(
        Dictionary<DeviceMigrationState, DeviceMigrationState> cameFrom, DeviceMigrationState from, DeviceMigrationState to)
    {
        List<DeviceMigrationState> way = [];
        for (DeviceMigrationState state = to; state != from; state = cameFrom[state])
            way.Add(state);
        way.Reverse();
        return way;
    }
}
