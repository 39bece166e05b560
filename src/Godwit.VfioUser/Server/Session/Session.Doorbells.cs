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
    private DoorbellBoard? _doorbells; // made on the session's thread when the client asks
    private DoorbellThread? _doorbellThread;

    /// <inheritdoc/>
    public void Ring(int region, ulong offset, uint value)
    {
        try
        {
            Span<byte> data = stackalloc byte[sizeof(uint)];
            BitConverter.TryWriteBytes(data, value);
            _device.WriteRegion(region, offset, data); // as with any posted write, nobody waits to hear of a refusal
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            _options.Log?.Invoke($"vfio-user doorbell at 0x{offset:x} of region {region} failed in the device: {e}");
        }
    }

    /// <summary>Where the client may write without a message; nothing to a client that cannot take the two descriptors.</summary>
    private Errno GetRegionIoFds(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        int head = Unsafe.SizeOf<RegionIoFdsBody>();
        if (!Wire.TryTake(body, out RegionIoFdsBody request, out _) || request.ArgSize < head
            || request.Flags != 0 || request.Count != 0 || request.Index >= (uint)_regionCount)
        {
            return Errno.EINVAL;
        }
        int count = DoorbellBoard.CountOf(_description.Regions.GetValueOrDefault((int)request.Index));
        if (_client.MaxMessageFds < 2)
            count = 0;
        int full = head + count * Unsafe.SizeOf<IoFdBody>();
        var reply = new RegionIoFdsBody { ArgSize = (uint)full, Index = request.Index, Count = (uint)count };
        if (count == 0 || request.ArgSize < full)
        {
            length = PutReply(reply);
            return Errno.None;
        }
        try
        {
            _doorbells ??= DoorbellBoard.Create(_description);
            _doorbellThread ??= DoorbellThread.Start(_doorbells.Bell, OnRing);
        }
        catch (LinuxException e)
        {
            return e.Errno;
        }
        Span<byte> destination = ReserveReply(full);
        _doorbells.Describe((int)request.Index, destination[Wire.Put(destination, reply)..]);
        _replyFiles.Add(_doorbells.Bell);
        _replyFiles.Add(_doorbells.Memory);
        length = full;
        return Errno.None;
    }

    private void OnRing()
    {
        lock (_deviceGate)
            _doorbells!.Deliver(this);
    }

    /// <summary>Executes a command when its turn has come.</summary>
    private void ExecuteInTurn(IncomingMessage message)
    {
        if (_doorbells is null)
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
            if (_doorbells.HasValues)
                _doorbells.Deliver(this);
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
        _doorbells?.Deliver(this);
        _doorbells?.Dispose();
        _doorbells = null;
    }
}
