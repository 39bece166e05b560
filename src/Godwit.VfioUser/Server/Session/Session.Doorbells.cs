using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>
/// Doorbells without messages. They arrive beside the socket, on a thread of their own, so the device is called under a lock once there are
/// any; and before a message is executed all doorbells are delivered, since those rung before it was sent come before it.
/// </content>
internal sealed partial class Session : IDoorbellReceiver
{
    private readonly Lock _deviceGate = new();
    private DoorbellBoard? _doorbells; // this and the next made on the session's thread when the client asks
    private EventBoard? _events;
    private EventFdThread? _doorbellThread;

    /// <inheritdoc/>
    public void Ring(int region, ulong offset, ulong value, int size)
    {
        try
        {
            Span<byte> data = stackalloc byte[sizeof(ulong)];
            BitConverter.TryWriteBytes(data, value);
            _device.WriteRegion(region, offset, data[..size]); // as with any posted write, nobody waits to hear of a refusal
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            _options.Log?.Invoke($"vfio-user doorbell at 0x{offset:x} of region {region} failed in the device: {e}");
        }
    }

    /// <summary>
    /// Where the client may write without a message: no doorbells to a client that cannot take their two descriptors, and only as many event registers as it can
    /// take descriptors. Event registers alone come in the specification's form, with doorbells in libvfio-user's.
    /// </summary>
    private Errno GetRegionIoFds(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        int head = Unsafe.SizeOf<RegionIoFdsBody>();
        if (!Wire.TryTake(body, out RegionIoFdsBody request, out _) || request.ArgSize < head
            || request.Flags != 0 || request.Count != 0 || request.Index >= (uint)_regionCount)
        {
            return Errno.EINVAL;
        }
        DeviceRegion? region = _description.Regions.GetValueOrDefault((int)request.Index);
        int room = Math.Min(_client.MaxMessageFds, WireLimits.MaxMessageFds);
        int doorbells = room < 2 ? 0 : DoorbellBoard.CountOf(region);
        int events = Math.Min(EventBoard.CountOf(region), doorbells == 0 ? room : room - 2);
        int entrySize = doorbells == 0 ? IoFdBody.PlainSize : Unsafe.SizeOf<IoFdBody>();
        int full = head + (doorbells + events) * entrySize;
        var reply = new RegionIoFdsBody { ArgSize = (uint)full, Index = request.Index, Count = (uint)(doorbells + events) };
        if (reply.Count == 0 || request.ArgSize < full)
        {
            length = PutReply(reply);
            return Errno.None;
        }
        Errno error = MakeBoards();
        if (error != Errno.None)
            return error;
        Span<byte> destination = ReserveReply(full);
        destination = destination[Wire.Put(destination, reply)..];
        if (doorbells != 0)
        {
            destination = destination[_doorbells!.Describe((int)request.Index, destination)..];
            _replyFiles.Add(_doorbells.Bell);
            _replyFiles.Add(_doorbells.Memory);
        }
        _events?.Describe((int)request.Index, events, entrySize, destination, _replyFiles);
        length = full;
        return Errno.None;
    }

    private Errno MakeBoards()
    {
        try
        {
            if (_doorbells is null && _description.Regions.Values.Any(region => DoorbellBoard.CountOf(region) != 0))
                _doorbells = DoorbellBoard.Create(_description);
            if (_events is null && _description.Regions.Values.Any(region => EventBoard.CountOf(region) != 0))
                _events = EventBoard.Create(_description);
            _doorbellThread ??= EventFdThread.Start("vfio-user doorbells", [.. _events?.Bells ?? [], .. _doorbells is null ? [] : new[] { _doorbells.Bell }], OnRing);
            return Errno.None;
        }
        catch (LinuxException e)
        {
            return e.Errno;
        }
    }

    private void OnRing()
    {
        lock (_deviceGate)
            DeliverRung();
    }

    /// <summary>Under the gate, or when nobody else is there.</summary>
    private void DeliverRung()
    {
        if (_doorbells is { HasValues: true })
            _doorbells.Deliver(this);
        _events?.Deliver(this);
    }

    /// <summary>Executes a command when its turn has come.</summary>
    private void ExecuteInTurn(IncomingMessage message)
    {
        if (_doorbellThread is null)
        {
            Execute(message);
            return;
        }
        if (!_deviceGate.TryEnter())
        {
            _pump.SendHeld(); // the device may be busy with a doorbell, and that with a client that waits for these answers
            _deviceGate.Enter();
        }
        try
        {
            DeliverRung();
            Execute(message);
        }
        finally
        {
            _deviceGate.Exit();
        }
    }

    /// <summary>The client has gone: what it rang before is delivered, and nothing any more.</summary>
    private void StopDoorbells()
    {
        _doorbellThread?.Dispose();
        _doorbellThread = null;
        DeliverRung();
        _doorbells?.Dispose();
        _doorbells = null;
        _events?.Dispose();
        _events = null;
    }
}
