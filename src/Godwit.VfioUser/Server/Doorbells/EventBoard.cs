using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The event registers of a device as eventfds that one client signals, one for each (specification, "VFIO_USER_DEVICE_GET_REGION_IO_FDS", ioeventfd). Who delivers
/// empties each; none is waited for.
/// </summary>
internal sealed class EventBoard : IDisposable
{
    private readonly Entry[] _entries;

    private EventBoard(Entry[] entries) => _entries = entries;

    /// <summary>What the client signals.</summary>
    public IEnumerable<EventFd> Bells => _entries.Select(entry => entry.Bell);

    /// <summary>Makes the board of a device.</summary>
    /// <exception cref="LinuxException">The process has no descriptor left.</exception>
    public static EventBoard Create(DeviceDescription description)
    {
        var entries = new List<Entry>();
        try
        {
            foreach ((int index, DeviceRegion region) in description.Regions)
            {
                foreach (EventRegister register in region.Events ?? [])
                    entries.Add(new Entry(index, register, EventFd.Create()));
            }
            return new EventBoard([.. entries]);
        }
        catch
        {
            entries.ForEach(entry => entry.Bell.Dispose());
            throw;
        }
    }

    /// <summary>How many event registers a region of the device has.</summary>
    public static int CountOf(DeviceRegion? region) => region?.Events?.Count ?? 0;

    /// <summary>Checks what a device says of its event registers.</summary>
    /// <exception cref="ArgumentException">Some lie outside of their region or are no registers, or there are too many.</exception>
    public static void Validate(DeviceDescription description)
    {
        foreach ((int index, DeviceRegion region) in description.Regions)
        {
            foreach (EventRegister register in region.Events ?? [])
            {
                if (register.Size is not (1 or 2 or 4 or 8) || register.Offset % (ulong)register.Size != 0 || register.Offset > region.Size
                    || (ulong)register.Size > region.Size - register.Offset || (register.Size < sizeof(ulong) && register.Value >> (register.Size * 8) is > 0))
                {
                    throw new ArgumentException($"{register} is no event register inside region {index} of {region.Size} bytes", nameof(description));
                }
            }
        }
        int count = description.Regions.Values.Sum(CountOf);
        if (count > EventRegister.MaxCount)
            throw new ArgumentException($"The device has {count} event registers; {EventRegister.MaxCount} are the most", nameof(description));
    }

    /// <summary>The first <paramref name="count"/> entries of a region.</summary>
    /// <param name="region">The region.</param>
    /// <param name="count">As many as there are, or fewer.</param>
    /// <param name="entrySize">Bytes of an entry: those of <see cref="IoFdBody"/> or its <see cref="IoFdBody.PlainSize"/>.</param>
    /// <param name="destination">Where they go.</param>
    /// <param name="files">Gets the eventfds.</param>
    public void Describe(int region, int count, int entrySize, Span<byte> destination, List<FileDescriptor> files)
    {
        foreach (Entry entry in _entries.Where(entry => entry.Region == region).Take(count))
        {
            var body = new IoFdBody
            {
                Offset = entry.Register.Offset,
                Size = (ulong)entry.Register.Size,
                FileIndex = (uint)files.Count,
                Type = IoFdType.IoEventFd,
                Flags = entry.Register.Value is null ? IoEventFlags.None : IoEventFlags.DataMatch,
                ShadowFileIndex = entrySize == IoFdBody.PlainSize ? 0 : IoFdBody.NoFile,
            };
            if (entrySize == IoFdBody.PlainSize)
                body.ShadowOffset = entry.Register.Value ?? 0; // where the specification's form has the value
            else
                body.DataMatch = entry.Register.Value ?? 0;
            MemoryMarshal.AsBytes(new ReadOnlySpan<IoFdBody>(in body))[..entrySize].CopyTo(destination);
            destination = destination[entrySize..];
            files.Add(entry.Bell);
        }
    }

    /// <summary>Delivers what was signalled. One caller at a time. Costs a system call for each.</summary>
    public void Deliver(IDoorbellReceiver receiver)
    {
        foreach (Entry entry in _entries)
        {
            if (entry.Bell.Drain() != 0)
                receiver.Ring(entry.Region, entry.Register.Offset, entry.Register.Value ?? 0, entry.Register.Size);
        }
    }

    public void Dispose()
    {
        foreach (Entry entry in _entries)
            entry.Bell.Dispose();
    }

    private readonly record struct Entry(int Region, EventRegister Register, EventFd Bell);
}
