using Godwit.Interop.Linux;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.VfioUser;

/// <summary>The migration state machine (linux/vfio.h, enum vfio_device_mig_state).</summary>
internal static class ArcChecks
{
    public static IReadOnlyList<Check> All { get; } =
    [
        new("migration.support", "STOP_COPY is offered with whatever else is, and nothing unknown", static e =>
        {
            MigrationSupport support = e.Migration();
            Examination.Require((support & MigrationSupport.StopCopy) != 0, $"flags 0x{(ulong)support:x} lack STOP_COPY");
            Examination.Require((support & ~(MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy)) == 0, $"flags 0x{(ulong)support:x}");
        }),
        new("migration.probe", "a probe finds the state readable and writable, and an unknown feature not at all", static e =>
        {
            e.Migration();
            e.Get(Command.DeviceFeature, "the probe of MIG_DEVICE_STATE", Examination.Feature(Feature.MigrationDeviceState, FeatureFlags.Get | FeatureFlags.Set | FeatureFlags.Probe, 8));
            e.Refused(Command.DeviceFeature, "a probe of feature 65535", Examination.Feature((Feature)0xFFFF, FeatureFlags.Get | FeatureFlags.Probe, 8));
            e.Refused(Command.DeviceFeature, "a feature with neither get, set nor probe", Examination.Feature(Feature.Migration, 0, 16));
        }),
        new("migration.initial", "a device that was reset runs, whatever it did before", static e =>
        {
            e.Migration();
            foreach (DeviceMigrationState state in (DeviceMigrationState[])[Stop, StopCopy, Resuming])
            {
                Set(e, state);
                e.Get(Command.DeviceReset, $"a reset in {state}", []);
                DeviceMigrationState after = Get(e);
                Examination.Require(after == Running, $"after a reset in {state} it is in {after}");
            }
        }),
        new("migration.arcs", "every state is reached from every state from which there is a way, and then is the state", static e =>
        {
            e.Migration();
            byte[] state = StateChecks.Save(e); // without a device's data there is nothing to leave RESUMING with
            EachPair(e, legal: true, (support, from, to) =>
            {
                if (from == Resuming && to != Resuming)
                    StateChecks.Write(e, state);
                Errno error = TrySet(e, to);
                Examination.Require(error == Errno.None, $"{from} to {to} is refused with {error}");
                DeviceMigrationState now = Get(e);
                Examination.Require(now == to, $"after {from} to {to} it is in {now}");
            });
        }),
        new("migration.no-arcs", "where there is no way a change is refused and changes nothing", static e => EachPair(e, legal: false, (support, from, to) =>
        {
            Examination.Require(TrySet(e, to) != Errno.None, $"{from} to {to} is not refused");
            DeviceMigrationState now = Get(e);
            Examination.Require(now == from, $"after {from} to {to} was refused it is in {now}");
        })),
        new("migration.no-state", "a state that does not exist is refused, and so is one that comes in part", static e =>
        {
            e.Migration();
            foreach (uint state in (uint[])[8, 255, uint.MaxValue])
                Examination.Require(TrySet(e, (DeviceMigrationState)state) != Errno.None, $"state {state} is not refused");
            e.Refused(Command.DeviceFeature, "a state of 2 bytes", Examination.Feature(Feature.MigrationDeviceState, FeatureFlags.Set, 16, [1, 0]));
            Examination.Require(Get(e) == Running, "it does not run any more");
        }),
    ];

    /// <summary>Asks for a state.</summary>
    public static Errno TrySet(Examination e, DeviceMigrationState state) => e.Try(
        Command.DeviceFeature, Examination.Feature(Feature.MigrationDeviceState, FeatureFlags.Set, 16, ExaminerPeer.Bytes(new MigrationStateBody { State = (uint)state, DataFd = -1 })));

    /// <summary>Goes to a state.</summary>
    public static void Set(Examination e, DeviceMigrationState state)
    {
        Errno error = TrySet(e, state);
        Examination.Require(error == Errno.None, $"{state} is refused with {error}");
    }

    /// <summary>The state.</summary>
    public static DeviceMigrationState Get(Examination e)
    {
        byte[] reply = e.Get(Command.DeviceFeature, "the migration state", Examination.Feature(Feature.MigrationDeviceState, FeatureFlags.Get, 16));
        Examination.Require(reply.Length == 16, $"the migration state is answered with {reply.Length} bytes instead of 16");
        return (DeviceMigrationState)BitConverter.ToUInt32(reply, 8);
    }

    private static void EachPair(Examination e, bool legal, Action<MigrationSupport, DeviceMigrationState, DeviceMigrationState> look)
    {
        MigrationSupport support = e.Migration();
        for (DeviceMigrationState from = Stop; from <= PreCopyP2P; from++)
        {
            if (!MigrationArcs.TryFindWay(support, Running, from, out _))
                continue;
            for (DeviceMigrationState to = Error; to <= PreCopyP2P; to++)
            {
                if (MigrationArcs.TryFindWay(support, from, to, out _) != legal)
                    continue;
                e.Get(Command.DeviceReset, "a reset", []);
                Set(e, from);
                look(support, from, to);
            }
        }
    }
}
