using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>
/// Migration v2 of a fake device: the arcs of vfio.h (vfio_device_mig_state), walked one after the other as drivers/vfio/vfio_main.c
/// (vfio_mig_get_next_state) does, with a data stream for PRE_COPY, STOP_COPY and RESUMING.
/// </summary>
internal sealed class FakeMigration(FakeVfioDevice device)
{
    public const int InitialBytes = 4096, FinalBytes = 1500;

    private DataFile? _session;

    public DeviceMigrationState State { get; private set; } = DeviceMigrationState.Running;

    /// <summary>What RESUMING took.</summary>
    public byte[] Loaded { get; private set; } = [];

    public bool DoesDma => State is DeviceMigrationState.Running or DeviceMigrationState.PreCopy or DeviceMigrationState.RunningP2P or DeviceMigrationState.PreCopyP2P;

    public long Remaining => FinalBytes;

    /// <summary>Bytes of the state that it saves.</summary>
    public int SavedBytes { get; set; } = InitialBytes + FinalBytes;

    /// <summary>When it finds out that what it is to load is no state of its own, and refuses it.</summary>
    public Scrutiny Scrutiny { get; set; }

    /// <summary>The saved state, as read from the stream from beginning to end.</summary>
    public static byte[] Image => [.. Enumerable.Range(0, InitialBytes + FinalBytes).Select(i => (byte)(i * 7))];

    public Errno Set(DeviceMigrationState wanted, out int number)
    {
        number = -1;
        if (wanted is DeviceMigrationState.Error or > DeviceMigrationState.PreCopyP2P || !Offers(wanted))
            return Errno.EINVAL;
        if (MigrationArcs.Way(device.Traits.Migration, State, wanted) is not { } way)
            return Errno.EINVAL;
        foreach (DeviceMigrationState state in way)
        {
            if (State == DeviceMigrationState.Resuming && Scrutiny == Scrutiny.AtEnd && !_session!.Written.AsSpan().SequenceEqual(Image.AsSpan(0, SavedBytes)))
            {
                (State, number) = (DeviceMigrationState.Error, -1);
                return Errno.EINVAL;
            }

            if (Step(state) is { } opened)
                number = device.Kernel.Add(opened);
            State = state;
        }

        return Errno.None;
    }

    public void Reset()
    {
        State = DeviceMigrationState.Running;
        End();
    }

    private bool Offers(DeviceMigrationState state) => state switch
    {
        DeviceMigrationState.PreCopy => device.Traits.Migration.HasFlag(MigrationSupport.PreCopy),
        DeviceMigrationState.PreCopyP2P => device.Traits.Migration.HasFlag(MigrationSupport.PreCopy | MigrationSupport.P2P),
        DeviceMigrationState.RunningP2P => device.Traits.Migration.HasFlag(MigrationSupport.P2P),
        _ => true,
    };

    private DataFile? Step(DeviceMigrationState to)
    {
        bool saving = State is DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P;
        switch (to)
        {
            case DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P when !saving:
                return _session = new DataFile(this, device, writes: false, start: 0);
            case DeviceMigrationState.StopCopy when !saving:
                return _session = new DataFile(this, device, writes: false, start: 0);
            case DeviceMigrationState.Resuming:
                return _session = new DataFile(this, device, writes: true, start: 0);
            case DeviceMigrationState.Stop or DeviceMigrationState.Running or DeviceMigrationState.RunningP2P:
                if (State == DeviceMigrationState.Resuming)
                    Loaded = _session!.Written;
                End();
                return null;
            default:
                return null;
        }
    }

    private void End()
    {
        _session?.End();
        _session = null;
    }

    /// <summary>A migration data stream.</summary>
    private sealed class DataFile(FakeMigration migration, FakeVfioDevice device, bool writes, int start) : FakeFile
    {
        private readonly List<byte> _written = [];
        private int _position = start;
        private bool _over;

        public byte[] Written => [.. _written];

        public void End() => _over = true;

        public override string NameOf(uint request) => request == vfio.VFIO_MIG_GET_PRECOPY_INFO ? nameof(vfio.VFIO_MIG_GET_PRECOPY_INFO) : $"data request 0x{request:x}";

        public override Errno Ioctl(uint request, Span<byte> argument, out int result)
        {
            result = 0;
            if (request != vfio.VFIO_MIG_GET_PRECOPY_INFO || !device.Traits.PrecopyInfo)
                return Errno.ENOTTY;
            if (_over || migration.State is not (DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P))
                return Errno.EINVAL;
            var info = MemoryMarshal.Read<vfio_precopy_info>(argument);
            if (info.argsz < Marshal.SizeOf<vfio_precopy_info>())
                return Errno.EINVAL;
            info.initial_bytes = (ulong)Math.Max(InitialBytes - _position, 0);
            info.dirty_bytes = FinalBytes;
            MemoryMarshal.Write(argument, info);
            return Errno.None;
        }

        public override Errno Read(Span<byte> destination, out int count)
        {
            count = 0;
            if (_over || writes)
                return Errno.EINVAL;
            bool stopped = migration.State == DeviceMigrationState.StopCopy;
            int end = stopped ? migration.SavedBytes : Math.Min(InitialBytes, migration.SavedBytes);
            if (_position >= end)
                return stopped ? Errno.None : Errno.ENOMSG;
            count = Math.Min(destination.Length, end - _position);
            Image.AsSpan(_position, count).CopyTo(destination);
            _position += count;
            return Errno.None;
        }

        public override Errno Write(ReadOnlySpan<byte> data, out int count)
        {
            count = 0;
            if (_over || !writes)
                return Errno.EINVAL;
            if (migration.Scrutiny == Scrutiny.AtOnce && data.Length < migration.SavedBytes - _written.Count)
                return Errno.EINVAL;
            count = Math.Min(data.Length, 1000); // short writes are allowed
            _written.AddRange(data[..count]);
            return Errno.None;
        }

        public override string ToString() => "migration data";
    }
}

/// <summary>When a device looks at a state that it loads.</summary>
internal enum Scrutiny
{
    /// <summary>Never: it takes everything.</summary>
    Never,

    /// <summary>When it is written: what comes in one piece must be whole.</summary>
    AtOnce,

    /// <summary>When it leaves RESUMING, for ERROR if it is wrong.</summary>
    AtEnd,
}
