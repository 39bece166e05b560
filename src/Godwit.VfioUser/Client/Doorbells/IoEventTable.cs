using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// What the device answered to DEVICE_GET_REGION_IO_FDS for one region. Entries that cannot be used safely or at all are left out: their
/// writes go by message.
/// </summary>
internal sealed unsafe class IoEventTable : IDisposable
{
    private const ulong LongestWrite = 8;

    private readonly ulong[] _offsets; // ascending, several of one offset in a row
    private readonly IoEvent[] _events;
    private readonly List<EventFd> _bells;
    private readonly List<MemoryMapping> _shadows;

    private IoEventTable(List<IoEvent> events, List<EventFd> bells, List<MemoryMapping> shadows)
    {
        _events = [.. events.OrderBy(e => e.Offset)];
        _offsets = [.. _events.Select(e => e.Offset)];
        _bells = bells;
        _shadows = shadows;
    }

    /// <summary>How many entries are in use.</summary>
    public int Count => _events.Length;

    /// <summary>Where they are, several entries of one place as often.</summary>
    public IEnumerable<SparseArea> Places => _events.Select(e => new SparseArea(e.Offset, e.Size == 0 ? LongestWrite : e.Size));

    /// <summary>Reads the entries of an answer. The descriptors stay the caller's.</summary>
    /// <param name="entries">As received, the head taken off.</param>
    /// <param name="count">How many there are said to be.</param>
    /// <param name="regionSize">Bytes of the region.</param>
    /// <param name="files">What came along.</param>
    /// <param name="result">The table.</param>
    /// <returns>Null, or what is wrong with the answer.</returns>
    public static string? TryRead(ReadOnlySpan<byte> entries, uint count, ulong regionSize, IReadOnlyList<FileDescriptor> files, out IoEventTable? result)
    {
        result = null;
        int size = count == 0 ? 0 : entries.Length / (int)Math.Min(count, int.MaxValue);
        if (count != 0 && (size < IoFdBody.PlainSize || (ulong)size * count != (ulong)entries.Length))
            return $"{count} entries in {entries.Length} bytes; one has at least {IoFdBody.PlainSize}";
        var reader = new Reader(files);
        var events = new List<IoEvent>((int)count);
        string? wrong = null;
        for (int i = 0; i < (int)count && wrong is null; i++)
            wrong = reader.Read(entries.Slice(i * size, size), regionSize, events);
        var table = new IoEventTable(events, reader.Bells, reader.Shadows);
        if (wrong is not null)
            table.Dispose();
        else
            result = table;
        return wrong;
    }

    /// <summary>Does a write if an entry is for it.</summary>
    /// <exception cref="ObjectDisposedException">The connection has been closed here meanwhile.</exception>
    public bool TryWrite(ulong offset, ReadOnlySpan<byte> data)
    {
        int at = _offsets.AsSpan().BinarySearch(offset);
        if (at < 0)
            return false;
        while (at > 0 && _offsets[at - 1] == offset)
            at--;
        for (; at < _offsets.Length && _offsets[at] == offset; at++)
        {
            if (!_events[at].Takes(data))
                continue;
            _events[at].Write(data);
            return true;
        }
        return false;
    }

    /// <summary>
    /// Whether a device has let an eventfd fill up. Empties it: the device may have made it blocking, and somebody may hang in a write.
    /// </summary>
    public bool EmptyFull()
    {
        bool full = false;
        foreach (EventFd bell in _bells)
            full |= bell.EmptyIfFull();
        return full;
    }

    public void Dispose()
    {
        foreach (EventFd bell in _bells)
            bell.Dispose();
        foreach (MemoryMapping shadow in _shadows)
            shadow.Dispose();
    }

    /// <summary>Makes eventfds and memory of received descriptors, each once.</summary>
    private sealed class Reader(IReadOnlyList<FileDescriptor> files)
    {
        private readonly Dictionary<uint, EventFd?> _bells = [];
        private readonly Dictionary<uint, MemoryMapping?> _shadows = [];

        public List<EventFd> Bells { get; } = [];

        public List<MemoryMapping> Shadows { get; } = [];

        /// <summary>Reads one entry; null, or what is wrong with it.</summary>
        public string? Read(ReadOnlySpan<byte> entry, ulong regionSize, List<IoEvent> events)
        {
            IoFdBody body = default;
            if (entry.Length >= sizeof(IoFdBody))
            {
                body = MemoryMarshal.Read<IoFdBody>(entry);
            }
            else
            {
                entry[..32].CopyTo(MemoryMarshal.AsBytes(new Span<IoFdBody>(ref body)));
                body.DataMatch = MemoryMarshal.Read<ulong>(entry[32..]);
            }
            if (body.Offset > regionSize || body.Size > regionSize - body.Offset)
                return $"an entry for {body.Size} bytes at 0x{body.Offset:x} of {regionSize}";
            bool shadowed = body.Type == IoFdType.ShadowIoEventFd;
            if (!shadowed && body.Type != IoFdType.IoEventFd)
                return null; // needs the kernel's help, or is newer than this
            if (body.FileIndex >= (uint)files.Count || (shadowed && (entry.Length < sizeof(IoFdBody) || body.ShadowFileIndex >= (uint)files.Count)))
                return $"an entry with descriptor {body.FileIndex} of {files.Count}";
            if (!(body.Size is 1 or 2 or 4 or 8 || (body.Size == 0 && !shadowed)))
                return null;
            if (BellOf(body.FileIndex) is not { } bell)
                return $"descriptor {body.FileIndex}, which is no eventfd";
            MemoryMapping? shadow = null;
            if (shadowed)
            {
                shadow = ShadowOf(body.ShadowFileIndex);
                if (shadow is null)
                    return null;
                if (body.ShadowOffset > shadow.Length || body.Size > shadow.Length - body.ShadowOffset || body.ShadowOffset % body.Size != 0)
                    return $"an entry with its value at 0x{body.ShadowOffset:x} of {shadow.Length} bytes";
            }
            ulong? match = (body.Flags & IoEventFlags.DataMatch) != 0 ? body.DataMatch : null;
            events.Add(new IoEvent(body.Offset, body.Size, bell, shadow, body.ShadowOffset, match));
            return null;
        }

        private EventFd? BellOf(uint index)
        {
            if (_bells.TryGetValue(index, out EventFd? bell))
                return bell;
            if (ReceivedEventFd.TryTake(files[(int)index], out bell))
                Bells.Add(bell);
            _bells.Add(index, bell);
            return bell;
        }

        /// <summary>The file as memory; null for one that could be made shorter under us, or is larger than any use.</summary>
        private MemoryMapping? ShadowOf(uint index)
        {
            if (_shadows.TryGetValue(index, out MemoryMapping? shadow))
                return shadow;
            FileDescriptor file = files[(int)index];
            try
            {
                ulong size = MemFd.SizeThatStays(file);
                if (size is > 0 and <= WireLimits.MaxShadow)
                {
                    shadow = MemoryMapping.MapShared(file, 0, size, writable: true);
                    Shadows.Add(shadow);
                }
            }
            catch (LinuxException)
            {
                // a file that may not be written: its values go by message
            }
            _shadows.Add(index, shadow);
            return shadow;
        }
    }
}
