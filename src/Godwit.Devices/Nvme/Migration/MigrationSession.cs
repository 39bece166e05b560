using Godwit.Interop.Linux;

namespace Godwit.Devices;

/// <summary>
/// The data transfer of one migration as the state machine sees it. Saving: the identity record as soon as PRE_COPY begins, so that a
/// destination that cannot take the controller says so before anything stops, then the state record in STOP_COPY. Resuming: the same
/// bytes in pieces of any size. Message thread only.
/// </summary>
internal sealed class MigrationSession(NvmeStateFormat format, LogLimiter log)
{
    private byte[] _saved = [];
    private int _savedPosition;
    private byte[] _received = [];
    private int _receivedCount;
    private bool _refused;

    /// <summary>Bytes of a whole stream.</summary>
    public int StreamSize => NvmeStateFormat.IdentitySize + format.StateSize;

    /// <summary>Bytes saved and not yet read.</summary>
    public int Unread => _saved.Length - _savedPosition;

    /// <summary>Begins saving with the identity alone.</summary>
    public void BeginSaving()
    {
        _saved = format.EncodeIdentity();
        _savedPosition = 0;
    }

    /// <summary>Adds the state of the stopped controller to what has not been read yet.</summary>
    public void Save(NvmeSnapshot state)
    {
        _saved = [.. _saved.AsSpan(_savedPosition), .. format.EncodeState(state)];
        _savedPosition = 0;
    }

    /// <summary>Reads on; 0 at the end.</summary>
    public int Read(Span<byte> destination)
    {
        int count = Math.Min(destination.Length, Unread);
        _saved.AsSpan(_savedPosition, count).CopyTo(destination);
        _savedPosition += count;
        return count;
    }

    /// <summary>Begins resuming: room for exactly one stream.</summary>
    public void BeginResuming()
    {
        _received = new byte[StreamSize];
        _receivedCount = 0;
        _refused = false;
    }

    /// <summary>Takes the next bytes of the stream. Checks the identity as soon as it is complete.</summary>
    public Errno Write(ReadOnlySpan<byte> data)
    {
        if (_refused)
            return Errno.EINVAL;
        if (data.Length > _received.Length - _receivedCount)
            return Refuse($"more than {_received.Length} bytes: {(long)_receivedCount + data.Length}", Errno.E2BIG);
        bool complete = _receivedCount >= NvmeStateFormat.IdentitySize;
        data.CopyTo(_received.AsSpan(_receivedCount));
        _receivedCount += data.Length;
        if (complete || _receivedCount < NvmeStateFormat.IdentitySize)
            return Errno.None;
        try
        {
            format.CheckIdentity(_received.AsSpan(0, NvmeStateFormat.IdentitySize));
            return Errno.None;
        }
        catch (NvmeStateException reason)
        {
            return Refuse(reason.Message, Errno.EINVAL);
        }
    }

    /// <summary>The whole stream has come: reads and checks it. Nothing is applied.</summary>
    public Errno Finish(PciConfiguration configuration, out NvmeSnapshot? state)
    {
        state = null;
        if (_refused)
            return Errno.EINVAL;
        if (_receivedCount != _received.Length)
        {
            log.Write($"nvme: migration data refused: {_receivedCount} of {_received.Length} bytes came");
            return Errno.EINVAL; // more may still come
        }
        try
        {
            state = format.DecodeState(_received.AsSpan(NvmeStateFormat.IdentitySize), configuration);
            return Errno.None;
        }
        catch (NvmeStateException reason)
        {
            return Refuse(reason.Message, Errno.EINVAL);
        }
    }

    /// <summary>Forgets both directions.</summary>
    public void End()
    {
        _saved = [];
        _savedPosition = 0;
        _received = [];
        _receivedCount = 0;
        _refused = false;
    }

    private Errno Refuse(string why, Errno errno)
    {
        _refused = true;
        log.Write($"nvme: migration data refused: {why}");
        return errno;
    }
}
