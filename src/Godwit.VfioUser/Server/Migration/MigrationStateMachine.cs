using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The device's migration state. Belongs to the device, not to a client: it outlives a connection. Used by one thread at a time.
/// </summary>
internal sealed class MigrationStateMachine(IVfioUserDevice device, MigrationSupport support)
{
    /// <summary>Where the device is.</summary>
    public DeviceMigrationState State { get; private set; } = DeviceMigrationState.Running;

    /// <summary>MIG_DATA_READ is allowed.</summary>
    public bool CanRead => MigrationArcs.IsSaving(State);

    /// <summary>MIG_DATA_WRITE is allowed.</summary>
    public bool CanWrite => State == DeviceMigrationState.Resuming;

    /// <summary>
    /// Goes to <paramref name="target"/>, over other states where needed. When a step is refused, the state stays where the step before led.
    /// A device that throws is in ERROR, as nobody knows what it is doing.
    /// </summary>
    public Errno Go(uint target)
    {
        if (target >= MigrationArcs.StateCount || !MigrationArcs.TryFindWay(support, State, (DeviceMigrationState)target, out DeviceMigrationState[]? way))
            return Errno.EINVAL;
        foreach (DeviceMigrationState next in way)
        {
            Errno error;
            try
            {
                error = device.Transition(State, next);
            }
            catch
            {
                State = DeviceMigrationState.Error;
                throw;
            }
            if (error != Errno.None)
                return error;
            State = next;
        }
        return Errno.None;
    }

    /// <summary>The device was reset: it runs, whatever was before.</summary>
    public void WasReset() => State = DeviceMigrationState.Running;
}
