using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// Migration of a kernel device (vfio.h, VFIO_DEVICE_FEATURE_MIGRATION, _MIG_DEVICE_STATE, _MIG_DATA_SIZE and VFIO_MIG_GET_PRECOPY_INFO). The
/// data stream is a descriptor that comes with the arc that opens a session and is closed with the arc that ends it. One caller at a time.
/// </summary>
internal sealed class KernelMigration(DeviceCalls device) : IDisposable
{
    private readonly Lock _gate = new(); // the size is asked by other threads
    private FileDescriptor? _data;
    private DeviceMigrationState _state = DeviceMigrationState.Running;

    /// <summary>What it offers; nothing when the driver has no migration.</summary>
    public MigrationSupport GetSupport()
    {
        var migration = default(vfio_device_feature_migration);
        Errno errno = device.TryFeature(vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_MIGRATION, ref migration);
        if (errno == Errno.ENOTTY)
            return MigrationSupport.None;
        device.Throw("VFIO_DEVICE_FEATURE_MIGRATION", errno);
        return (MigrationSupport)migration.flags & (MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy);
    }

    /// <summary>The state now.</summary>
    public DeviceMigrationState GetState()
    {
        var state = default(vfio_device_feature_mig_state);
        device.Throw(
            "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", device.TryFeature(vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, ref state));
        var result = (DeviceMigrationState)state.device_state;
        Entered(result);
        return result;
    }

    /// <summary>Goes to <paramref name="state"/>. When it fails the device may be in another state than before; ask.</summary>
    public void SetState(DeviceMigrationState state)
    {
        var move = new vfio_device_feature_mig_state { device_state = (uint)state, data_fd = -1 };
        Errno errno = device.TryFeature(vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, ref move);
        device.Throw($"to go to {MigrationArcs.Name(state)}", errno);
        if (move.data_fd >= 0)
        {
            FileDescriptor data = device.Kernel.Adopt(move.data_fd);
            lock (_gate)
            {
                _data?.Dispose();
                _data = data;
            }
        }

        Entered(state);
    }

    /// <summary>The next chunk; 0 at the end, or when nothing more is there in PRE_COPY.</summary>
    public int Read(Span<byte> destination)
    {
        Errno errno;
        int count;
        try
        {
            errno = device.Kernel.Read(Session("reading"), destination, out count);
        }
        catch (ObjectDisposedException e)
        {
            throw DeviceCalls.Closed(e);
        }

        if (errno == Errno.ENOMSG && _state is DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P)
            return 0; // vfio.h, vfio_precopy_info: nothing now, more may come
        device.Throw("a read of its state", errno);
        return count;
    }

    /// <summary>Takes all of <paramref name="data"/> in RESUMING.</summary>
    public void Write(ReadOnlySpan<byte> data)
    {
        while (data.Length > 0)
        {
            Errno errno;
            int count;
            try
            {
                errno = device.Kernel.Write(Session("writing"), data, out count);
            }
            catch (ObjectDisposedException e)
            {
                throw DeviceCalls.Closed(e);
            }

            device.Throw("a write of its state", errno == Errno.None && count == 0 ? Errno.EIO : errno);
            data = data[count..];
        }
    }

    /// <summary>
    /// What a stop now would still have to carry: the larger of the driver's estimate and, in PRE_COPY, what the stream says is left; null
    /// when neither is offered.
    /// </summary>
    public ulong? GetStopCopySize()
    {
        var size = default(vfio_device_feature_mig_data_size);
        Errno errno = device.TryFeature(vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, ref size);
        if (errno is not (Errno.None or Errno.ENOTTY))
            device.Throw("VFIO_DEVICE_FEATURE_MIG_DATA_SIZE", errno);
        ulong? estimate = errno == Errno.None ? size.stop_copy_length : null;
        ulong? left = PrecopyLeft();
        return estimate is { } a && left is { } b ? Math.Max(a, b) : estimate ?? left;
    }

    /// <summary>Ends the session after a reset, which puts the device into RUNNING (vfio.h, vfio_device_mig_state).</summary>
    public void WasReset() => Entered(DeviceMigrationState.Running);

    /// <inheritdoc/>
    public void Dispose() => Close();

    private ulong? PrecopyLeft()
    {
        lock (_gate)
        {
            if (_data is null || _state is not (DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P))
                return null;
            var info = new vfio_precopy_info { argsz = (uint)Marshal.SizeOf<vfio_precopy_info>() };
            // Optional (ENOTTY), and void as soon as the device has moved on (EINVAL): then the estimate has to do.
            return device.Kernel.Ioctl(_data, vfio.VFIO_MIG_GET_PRECOPY_INFO, ref info) == Errno.None
                ? info.initial_bytes + Math.Min(info.dirty_bytes, ulong.MaxValue - info.initial_bytes)
                : null;
        }
    }

    private FileDescriptor Session(string what)
    {
        lock (_gate)
            return _data ?? throw new DeviceRefusedException($"{what} its state in {MigrationArcs.Name(_state)}", Errno.EINVAL);
    }

    /// <summary>Outside the states that transfer there is no session.</summary>
    private void Entered(DeviceMigrationState state)
    {
        _state = state;
        if (state is not (DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P or DeviceMigrationState.StopCopy or DeviceMigrationState.Resuming))
            Close();
    }

    private void Close()
    {
        lock (_gate)
        {
            _data?.Dispose();
            _data = null;
        }
    }
}
