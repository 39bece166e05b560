using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DEVICE_GET_REGION_IO_FDS: region writes without messages.</content>
public sealed partial class VfioUserClient
{
    private readonly Lock _ioEventsGate = new();
    private volatile IoEventTable?[]? _ioEvents; // by region; replaced, never changed
    private long _doorbellsRung;

    /// <summary>
    /// Asks the device where in a region it takes writes by eventfd, and from then on has <see cref="WriteRegion"/> do those without a
    /// message. All other writes then wait for the device, also those that are posted, so that a doorbell cannot overtake what was
    /// written before it.
    /// </summary>
    /// <param name="index">The region.</param>
    /// <param name="size">Its size as <see cref="GetRegionInfo"/> tells it.</param>
    /// <returns>How many places; 0 also from a device that does not know the command.</returns>
    /// <exception cref="VfioUserProtocolException">The answer contradicts itself.</exception>
    public int UseDoorbells(int index, ulong size)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, WireLimits.MaxRegions);
        var files = new List<FileDescriptor>();
        try
        {
            IoEventTable? table = AskIoFds(index, size, files);
            if (table is null)
                return 0;
            if (table.Count == 0)
            {
                table.Dispose();
                return 0;
            }
            lock (_ioEventsGate)
            {
                var tables = new IoEventTable?[WireLimits.MaxRegions];
                _ioEvents?.CopyTo(tables, 0);
                tables[index]?.Dispose(); // asked twice; a write that is under way fails as after Dispose
                tables[index] = table;
                _ioEvents = tables;
            }
            return table.Count;
        }
        finally
        {
            DisposeAll(files);
        }
    }

    /// <summary>Where <see cref="UseDoorbells"/> has found some in a region; writes elsewhere in it ring none.</summary>
    public IReadOnlyList<SparseArea> GetDoorbells(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, WireLimits.MaxRegions);
        return _ioEvents?[index] is { } table ? [.. table.Places] : [];
    }

    /// <summary>How many region writes have gone by eventfd.</summary>
    public long DoorbellsRung => Volatile.Read(ref _doorbellsRung);

    /// <summary>Null when the device has none.</summary>
    private IoEventTable? AskIoFds(int index, ulong size, List<FileDescriptor> files)
    {
        int head = Unsafe.SizeOf<RegionIoFdsBody>();
        byte[] entries = [];
        RegionIoFdsBody reply = default;
        int length = 0;
        // The first answer tells how long the full one is; the second question asks for that.
        for (int attempt = 0; attempt < 2; attempt++)
        {
            var request = new RegionIoFdsBody { ArgSize = (uint)(head + entries.Length), Index = (uint)index };
            try
            {
                length = _connection.Call(
                    Command.DeviceGetRegionIoFds,
                    "DEVICE_GET_REGION_IO_FDS",
                    Bytes(in request),
                    [],
                    [],
                    MemoryMarshal.AsBytes(new Span<RegionIoFdsBody>(ref reply)),
                    entries,
                    files);
            }
            catch (VfioUserRemoteException e) when (IsUnknown(e.Errno) || e.Errno == Errno.ENOSYS)
            {
                return null;
            }
            if (length < head)
                _connection.Violated($"DEVICE_GET_REGION_IO_FDS was answered with {length} bytes; {head} are the least");
            if (reply.ArgSize <= head + entries.Length)
                break;
            if (reply.ArgSize > WireLimits.MaxIoFds || attempt != 0)
                _connection.Violated($"region {index} has {reply.ArgSize} bytes of eventfds; the limit is {WireLimits.MaxIoFds}, and the second answer must be the first's size");
            entries = new byte[reply.ArgSize - head];
            DisposeAll(files); // the second answer brings its own, and counts from its first
        }
        string? wrong = IoEventTable.TryRead(entries.AsSpan(0, length - head), reply.Count, size, files, out IoEventTable? table);
        if (wrong is not null)
            _connection.Violated($"the eventfds of region {index}: {wrong}");
        return table;
    }

    /// <summary>Does a write by eventfd if there is one for it.</summary>
    private bool TryRing(IoEventTable?[] tables, int index, ulong offset, ReadOnlySpan<byte> data)
    {
        if ((uint)index >= (uint)tables.Length || tables[index] is not { } table)
            return false;
        _connection.ThrowIfLost();
        try
        {
            if (!table.TryWrite(offset, data))
                return false;
        }
        catch (ObjectDisposedException)
        {
            _connection.ThrowLost();
        }
        Interlocked.Increment(ref _doorbellsRung);
        return true;
    }

    /// <summary>For the connection's watchdog.</summary>
    private string? FindFullDoorbell()
    {
        lock (_ioEventsGate)
        {
            for (int i = 0; i < (_ioEvents?.Length ?? 0); i++)
            {
                if (_ioEvents![i]?.EmptyFull() == true)
                    return $"the device has let an eventfd of region {i} fill up";
            }
        }
        return null;
    }

    private void DisposeDoorbells()
    {
        FindFullDoorbell(); // releases whoever hangs in one
        lock (_ioEventsGate)
        {
            foreach (IoEventTable? table in _ioEvents ?? [])
                table?.Dispose();
            _ioEvents = null; // the watchdog may look once more
        }
    }
}
