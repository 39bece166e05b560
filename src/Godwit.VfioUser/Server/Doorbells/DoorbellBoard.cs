using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The doorbells of a device as memory that one client writes: a word for each, all ones while nothing was written. Who delivers takes a
/// value out by putting all ones in its place, so that a register written twice with the same value is seen twice, and no value is
/// ever left from before a reset. The file is sealed: the client cannot make it shorter under us.
/// </summary>
internal sealed unsafe class DoorbellBoard : IDisposable
{
    /// <summary>Nothing written.</summary>
    private const uint Empty = uint.MaxValue;

    private const int WordSize = sizeof(uint);

    private readonly MemoryMapping _mapping;
    private readonly Doorbell[] _doorbells;

    private DoorbellBoard(Doorbell[] doorbells, MemFd memory, MemoryMapping mapping, EventFd bell)
    {
        _doorbells = doorbells;
        Memory = memory;
        _mapping = mapping;
        Bell = bell;
        Words.Fill(Empty);
    }

    /// <summary>What the client writes values to.</summary>
    public MemFd Memory { get; }

    /// <summary>What the client signals after that.</summary>
    public EventFd Bell { get; }

    // SAFETY: the mapping covers the words, and lives until Dispose, after which nothing of this is called.
    private Span<uint> Words => new(_mapping.Address, _doorbells.Length);

    /// <summary>Makes the board of a device that has doorbells.</summary>
    /// <exception cref="LinuxException">The process has no descriptor or memory left.</exception>
    public static DoorbellBoard Create(DeviceDescription description)
    {
        Doorbell[] doorbells = [.. ListOf(description)];
        MemFd? memory = null;
        MemoryMapping? mapping = null;
        try
        {
            ulong page = (ulong)Environment.SystemPageSize;
            ulong size = ((ulong)doorbells.Length * WordSize + page - 1) & ~(page - 1);
            memory = MemFd.Create("vfio-user doorbells", size);
            mapping = MemoryMapping.MapShared(memory, 0, size, writable: true);
            return new DoorbellBoard(doorbells, memory, mapping, EventFd.Create());
        }
        catch
        {
            mapping?.Dispose();
            memory?.Dispose();
            throw;
        }
    }

    /// <summary>How many doorbells a region of the device has.</summary>
    public static int CountOf(DeviceRegion? region) => region?.Doorbells?.Sum(range => range.Count) ?? 0;

    /// <summary>Checks what a device says of its doorbells.</summary>
    /// <exception cref="ArgumentException">Some lie outside of their region, or there are too many.</exception>
    public static void Validate(DeviceDescription description)
    {
        foreach ((int index, DeviceRegion region) in description.Regions)
        {
            foreach (DoorbellRange range in region.Doorbells ?? [])
            {
                if (range.Count is < 0 or > DoorbellRange.MaxCount || range.Offset % WordSize != 0 || range.Offset > region.Size
                    || (ulong)range.Count * WordSize > region.Size - range.Offset)
                {
                    throw new ArgumentException($"{range.Count} doorbells at 0x{range.Offset:x} are not inside region {index} of {region.Size} bytes", nameof(description));
                }
            }
        }
        int count = description.Regions.Values.Sum(CountOf);
        if (count > DoorbellRange.MaxCount)
            throw new ArgumentException($"The device has {count} doorbells; {DoorbellRange.MaxCount} are the most", nameof(description));
    }

    /// <summary>The entries of DEVICE_GET_REGION_IO_FDS, the eventfd being descriptor 0 and the memory descriptor 1.</summary>
    public int Describe(int region, Span<byte> destination)
    {
        int at = 0;
        for (int i = 0; i < _doorbells.Length; i++)
        {
            if (_doorbells[i].Region != region)
                continue;
            at += Wire.Put(destination[at..], new IoFdBody
            {
                Offset = _doorbells[i].Offset,
                Size = WordSize,
                FileIndex = 0,
                Type = IoFdType.ShadowIoEventFd,
                ShadowFileIndex = 1,
                ShadowOffset = (ulong)i * WordSize,
            });
        }
        return at;
    }

    /// <summary>Whether a value waits to be delivered. Costs a look at the words, no system call.</summary>
    public bool HasValues => Words.ContainsAnyExcept(Empty);

    /// <summary>Delivers every value that waits. One caller at a time.</summary>
    public void Deliver(IDoorbellReceiver receiver)
    {
        Span<uint> words = Words;
        for (int at = 0; at < words.Length; at++)
        {
            int next = words[at..].IndexOfAnyExcept(Empty);
            if (next < 0)
                return;
            at += next;
            uint value = Interlocked.Exchange(ref words[at], Empty);
            if (value != Empty)
                receiver.Ring(_doorbells[at].Region, _doorbells[at].Offset, value, WordSize);
        }
    }

    public void Dispose()
    {
        _mapping.Dispose();
        Memory.Dispose();
        Bell.Dispose();
    }

    private static IEnumerable<Doorbell> ListOf(DeviceDescription description) =>
        from region in description.Regions
        from range in region.Value.Doorbells ?? []
        from i in Enumerable.Range(0, range.Count)
        select new Doorbell(region.Key, range.Offset + (ulong)i * WordSize);

    private readonly record struct Doorbell(int Region, ulong Offset);
}

/// <summary>Takes what was written to doorbells and event registers.</summary>
internal interface IDoorbellReceiver
{
    /// <summary>A value of 1, 2, 4 or 8 bytes was written to a register.</summary>
    void Ring(int region, ulong offset, ulong value, int size);
}
