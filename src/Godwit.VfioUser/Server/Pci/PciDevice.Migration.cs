using System.Buffers.Binary;
using Godwit.Interop.Linux;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.VfioUser;

/// <content>
/// Migration. The stream is a header that says which device this is, from PRE_COPY on, so that a destination that cannot take it says so
/// before anything stops; then, in STOP_COPY, a length and that many bytes: configuration space, MSI-X table, the device's own state.
/// </content>
public abstract partial class PciDevice
{
    /// <summary>"GWPCIDEV" in the order of the bytes.</summary>
    private const ulong Magic = 0x5645_4449_4350_5747;
    private const int HeaderSize = 16;
    private const int LengthSize = 4;

    private DeviceMigrationState _state = Running;
    private byte[] _saved = [];
    private int _savedAt;
    private byte[] _received = [];
    private int _receivedCount;

    /// <inheritdoc/>
    public ulong StopCopySize => _state == StopCopy ? (ulong)(_saved.Length - _savedAt) : (ulong)(HeaderSize + LengthSize + FixedSize + _definition.MaxStateSize);

    private int FixedSize => PciConfigSpace.Size + _msixTable.Length + 1;

    /// <inheritdoc/>
    public Errno Transition(DeviceMigrationState from, DeviceMigrationState to)
    {
        ThrowIfFailed();
        if (Executes(from) && !Executes(to) && !_worker.TryClose(QuiesceWait, Clock))
        {
            Log?.Invoke($"{from} to {to} refused: the device's work did not finish within {QuiesceWait}");
            GoOn();
            return Errno.ETIMEDOUT;
        }
        if (Executes(from) && !Executes(to))
            ThrowIfFailed();
        switch (from, to)
        {
            case (Running or RunningP2P, PreCopy or PreCopyP2P):
                BeginSaving();
                break;
            case (Stop, StopCopy):
                BeginSaving();
                AppendState();
                break;
            case (PreCopy or PreCopyP2P, StopCopy):
                AppendState();
                break;
            case (PreCopy or PreCopyP2P, Running or RunningP2P):
            case (StopCopy, Stop):
                _saved = [];
                _savedAt = 0;
                break;
            case (Stop, Resuming):
                _received = new byte[HeaderSize + LengthSize];
                _receivedCount = 0;
                break;
            case (Resuming, Stop):
                Errno error = Restore();
                if (error != Errno.None)
                    return error;
                break;
        }
        _state = to;
        if (!Executes(from))
            GoOn();
        return Errno.None;
    }

    /// <inheritdoc/>
    public int ReadMigrationData(Span<byte> destination)
    {
        int count = Math.Min(destination.Length, _saved.Length - _savedAt);
        _saved.AsSpan(_savedAt, count).CopyTo(destination);
        _savedAt += count;
        return count;
    }

    /// <inheritdoc/>
    public Errno WriteMigrationData(ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            if (_receivedCount == _received.Length)
                return Errno.E2BIG;
            int count = Math.Min(data.Length, _received.Length - _receivedCount);
            data[..count].CopyTo(_received.AsSpan(_receivedCount));
            _receivedCount += count;
            data = data[count..];
            if (_receivedCount >= HeaderSize && !_received.AsSpan(0, HeaderSize).SequenceEqual(Header()))
                return Errno.EINVAL; // another device, or another version of it
            if (_receivedCount == HeaderSize + LengthSize && _received.Length == _receivedCount)
            {
                uint length = BinaryPrimitives.ReadUInt32LittleEndian(_received.AsSpan(HeaderSize));
                if (length < (uint)FixedSize || length > (uint)(FixedSize + _definition.MaxStateSize))
                    return Errno.E2BIG;
                Array.Resize(ref _received, HeaderSize + LengthSize + (int)length);
            }
        }
        return Errno.None;
    }

    /// <summary>States in which <see cref="Work"/> is done. In the P2P states nothing is begun, so that peers may stop.</summary>
    private static bool Executes(DeviceMigrationState state) => state is Running or PreCopy;

    private byte[] Header()
    {
        byte[] header = new byte[HeaderSize];
        BinaryPrimitives.WriteUInt64LittleEndian(header, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), _definition.VendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(10), _definition.DeviceId);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(12), _definition.StateVersion);
        return header;
    }

    private void BeginSaving()
    {
        _saved = Header();
        _savedAt = 0;
    }

    private void AppendState()
    {
        var own = new DeviceStateWriter(_definition.MaxStateSize);
        byte[] length = new byte[LengthSize];
        lock (Gate)
        {
            Save(own);
            BinaryPrimitives.WriteUInt32LittleEndian(length, (uint)(FixedSize + own.Written.Length));
            _saved = [.. _saved.AsSpan(_savedAt), .. length, .. _config.Values, .. _msixTable, _pin ? (byte)1 : (byte)0, .. own.Written];
        }
        _savedAt = 0;
    }

    /// <summary>All of the state is here and right, or the device is reset and keeps waiting for nothing.</summary>
    private Errno Restore()
    {
        if (_received.Length == HeaderSize + LengthSize || _receivedCount != _received.Length)
            return Errno.EINVAL; // more may still come
        byte[] received = _received;
        ReadOnlySpan<byte> rest = received.AsSpan(HeaderSize + LengthSize);
        ReadOnlySpan<byte> config = rest[..PciConfigSpace.Size];
        ReadOnlySpan<byte> table = rest.Slice(PciConfigSpace.Size, _msixTable.Length);
        byte pin = rest[FixedSize - 1];
        if (!_config.Accepts(config) || pin > (_definition.HasPin ? 1 : 0))
            return Errno.EINVAL;
        lock (Gate)
        {
            var own = new DeviceStateReader(rest[FixedSize..].ToArray());
            try
            {
                OnReset();
                Load(own);
                if (own.Left != 0)
                    throw new DeviceStateException($"{own.Left} bytes of the state are left over");
            }
            catch (DeviceStateException e)
            {
                Log?.Invoke($"migration data refused: {e.Message}");
                ResetRegisters();
                return Errno.EINVAL;
            }
            _config.Restore(config);
            table.CopyTo(_msixTable);
            _pin = pin == 1;
            DrivePin();
        }
        _received = [];
        _receivedCount = 0;
        return Errno.None;
    }
}
