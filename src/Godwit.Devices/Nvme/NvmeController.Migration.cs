using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices;

public sealed partial class NvmeController
{
    private DeviceMigrationState _state = Running;

    /// <inheritdoc/>
    public ulong StopCopySize => _state switch
    {
        StopCopy => (ulong)_session.Unread,
        PreCopy or PreCopyP2P => (ulong)(_session.Unread + _format.StateSize),
        _ => (ulong)_session.StreamSize,
    };

    /// <inheritdoc/>
    public Errno Transition(DeviceMigrationState from, DeviceMigrationState to)
    {
        if (!IsArc(from, to))
            return Errno.EINVAL;

        // Leaving, in the order in which the pieces depend on each other; a failure leaves the device as it was.
        if (Executes(from) && !Executes(to) && !_core.Scheduler.Close(_options.QuiesceWait))
        {
            _log.Write($"nvme: {from} to {to} refused: commands on {_image.Path} did not finish within {_options.QuiesceWait}");
            GoOn();
            return Errno.ETIMEDOUT;
        }
        if (HoldsImage(from) && !HoldsImage(to))
        {
            Errno released = _ownership.Release();
            if (released != Errno.None)
            {
                GoOn();
                return released;
            }
        }

        // Entering.
        if (HoldsImage(to) && !HoldsImage(from) && _core.Ready && !_core.Fatal)
        {
            Errno taken = _ownership.Take(_options.OwnershipWait);
            if (taken != Errno.None)
                return taken;
        }
        Errno moved = MoveData(from, to);
        if (moved != Errno.None)
            return moved;

        _state = to;
        if (!Executes(from))
            GoOn();
        return Errno.None;
    }

    /// <inheritdoc/>
    public int ReadMigrationData(Span<byte> destination)
    {
        if (_state is not (PreCopy or PreCopyP2P or StopCopy))
            return 0;
        int count = _session.Read(destination);
        // Every look during pre-copy keeps short what letting the image go will have to flush.
        if (count == 0 && _state == PreCopy && !_image.SharesPageCache)
            _core.FlushSoon();
        return count;
    }

    /// <inheritdoc/>
    public Errno WriteMigrationData(ReadOnlySpan<byte> data) => _state == Resuming ? _session.Write(data) : Errno.EINVAL;

    /// <summary>States in which workers take commands. In the P2P states nothing new is begun, so that peers may stop.</summary>
    private static bool Executes(DeviceMigrationState state) => state is Running or PreCopy;

    /// <summary>States in which the image belongs to this server, if the controller is enabled.</summary>
    private static bool HoldsImage(DeviceMigrationState state) => state is Running or RunningP2P or PreCopy or PreCopyP2P;

    /// <summary>Direct arcs of vfio.h, enum vfio_device_mig_state, with and without the P2P states between.</summary>
    private static bool IsArc(DeviceMigrationState from, DeviceMigrationState to) => (from, to) is
        (Running, RunningP2P or PreCopy or Stop)
        or (RunningP2P, Running or PreCopyP2P or Stop)
        or (PreCopy, Running or PreCopyP2P or StopCopy)
        or (PreCopyP2P, RunningP2P or PreCopy or StopCopy)
        or (Stop, Running or RunningP2P or StopCopy or Resuming)
        or (StopCopy, Stop)
        or (Resuming, Stop);

    /// <summary>What an arc means for the migration data. Workers are quiet wherever the state is read or replaced.</summary>
    private Errno MoveData(DeviceMigrationState from, DeviceMigrationState to)
    {
        switch (from, to)
        {
            case (Running or RunningP2P, PreCopy or PreCopyP2P):
                _session.BeginSaving();
                return Errno.None;
            case (Stop, StopCopy):
                _session.BeginSaving();
                _session.Save(NvmeSnapshot.Capture(_core, _pci, _msixTable));
                return Errno.None;
            case (PreCopy or PreCopyP2P, StopCopy):
                _session.Save(NvmeSnapshot.Capture(_core, _pci, _msixTable));
                return Errno.None;
            case (PreCopy or PreCopyP2P, Running or RunningP2P):
            case (StopCopy, Stop):
                _session.End();
                return Errno.None;
            case (Stop, Resuming):
                _session.BeginResuming();
                return Errno.None;
            case (Resuming, Stop):
                Errno errno = _session.Finish(_pci, out NvmeSnapshot? state);
                if (errno != Errno.None || state is null)
                    return errno;
                _session.End();
                state.Apply(_core, _pci, _msixTable);
                ApplyInterruptControl();
                return Errno.None;
            default:
                return Errno.None;
        }
    }
}
